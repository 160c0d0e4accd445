"""2,000 random matrices: packed, unpacked, multiplied by each instruction set that works here."""

import random

import numpy as np
import pytest
import torch

from steppe.sparse.native.interface import CHUNK, PADDING, ROWS, TILE
from steppe.sparse.native.library import (
    BitsArguments,
    Call,
    IndexArguments,
    Source,
    library,
    why_not,
)

CASES, PARTS = 2000, 8

TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8]  # enum sps_dtype
PATTERNS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
# the last is a NaN that rounding as if it were a number would make a zero
STRANGE = [
    *torch.tensor([float("nan"), float("inf"), float("-inf")]),
    torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32),
]
# half the distance of neighbours, beside a number; and beside zero
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}
SMALLEST = {torch.float32: 2**-126, torch.bfloat16: 2**-126, torch.float16: 2**-25}


def exact_bytes(count):
    """A buffer whose address is that of an element and no more: vectors lie across its lines."""
    return torch.zeros(count + 68, dtype=torch.uint8)[4 : 4 + count]


class Matrix:
    """One random matrix.

    Args:
        seed: of all that is random here.
    """

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.kind = self.draw.randrange(4)
        self.dtype = TYPES[self.kind]
        self.columns = self._columns()
        self.rows = self.draw.randint(1, 4 if self.columns > 1000 else 38)
        self.strange = self.draw.random() < 0.3
        self.weights, self.kept = self._weights()
        scale = self.numbers.uniform(0.01, 2, self.rows).astype(np.float32)
        self.scale = torch.from_numpy(scale) if self.dtype is torch.int8 else None

    def _columns(self):
        among = self.draw.random()
        if among < 0.01:
            return TILE + self.draw.randint(-40, 300)
        return self.draw.randint(1, 70) if among < 0.6 else self.draw.randint(1, 420)

    def _weights(self):
        shape = self.rows, self.columns
        density = 1 - self.draw.choice([0, 0.3, 0.5, 0.7, 0.9, 0.97, 1])
        kept = self.numbers.random(shape) < density
        kept[self.numbers.random(self.rows) < 0.1] = False
        first = self.draw.randrange(self.columns)
        if self.draw.random() < 0.2:
            kept[:, first : first + 70] = False
        if self.dtype is torch.int8:
            dense = torch.from_numpy(self.numbers.integers(-128, 128, shape)).to(torch.int8)
        else:
            dense = self._floats(shape, self.dtype)
            dense[torch.from_numpy(self.numbers.random(shape) < 0.02)] = -0.0
        return torch.where(torch.from_numpy(kept), dense, torch.zeros((), dtype=self.dtype)), kept

    def _floats(self, shape, dtype):
        size = self.draw.choice([1.0, 1.0, 1e-3, 8.0, 1e-6])
        numbers = torch.from_numpy(size * self.numbers.standard_normal(shape)).to(dtype)
        if self.strange:
            where = torch.from_numpy(self.numbers.random(shape) < self.draw.choice([0.002, 0.05]))
            numbers[where] = self.draw.choice(STRANGE).to(dtype)
        return numbers

    def pack(self, kernels, threads):
        """Both layouts, from dense rows or from a mask and what it keeps."""
        size = self.weights.element_size()
        mask = self.draw.random() < 0.5
        patterns = self.weights.view(PATTERNS[size])
        kept = torch.from_numpy(self.kept) if mask else patterns != 0
        values = patterns[kept] if mask else patterns.contiguous()
        bits = torch.from_numpy(np.packbits(self.kept.ravel()))
        places = [0, *kept.sum(1).cumsum(0).tolist()]
        row_starts = torch.tensor(places, dtype=torch.int64)
        given = Source(self.rows, self.columns, size, values.data_ptr(), None, None)
        if mask:
            given.mask, given.row_starts = bits.data_ptr(), row_starts.data_ptr()
        tiles, groups = -(-self.columns // TILE), -(-self.rows // ROWS)
        counts = torch.full((tiles, self.rows), -1, dtype=torch.int64)
        kernels.count(given, counts.data_ptr(), threads)
        wide = torch.nn.functional.pad(kept, (0, tiles * TILE - self.columns))
        assert torch.equal(counts, wide.view(self.rows, tiles, TILE).sum(2).T)
        total = int(counts.sum())
        of_groups = torch.nn.functional.pad(counts.sum(0), (0, groups * ROWS - self.rows))
        offsets = sums(of_groups.view(groups, ROWS).sum(1))
        starts = torch.stack([sums(row) for row in counts]) + sums(counts.sum(1))[:-1, None]
        shape = torch.zeros(groups, -(-self.columns // CHUNK), ROWS, dtype=torch.int32)
        packed = exact_bytes(total * size + PADDING)
        kernels.bits_pack(given, offsets.data_ptr(), shape.data_ptr(), packed.data_ptr(), threads)
        columns, entries = exact_bytes(total * 2 + PADDING), exact_bytes(total * size + PADDING)
        kernels.index_pack(
            given, starts.data_ptr(), columns.data_ptr(), entries.data_ptr(), threads
        )
        self._alive = shape, packed, offsets, starts, columns, entries
        head, tail = (self.rows, self.columns, self.kind), (address(self.scale),)
        self.bits = BitsArguments(
            *head, shape.data_ptr(), packed.data_ptr(), offsets.data_ptr(), *tail
        )
        self.index = IndexArguments(
            *head, starts.data_ptr(), columns.data_ptr(), entries.data_ptr(), *tail
        )

    def dense(self):
        """What it stands for, in float32 or its own type."""
        return self.weights if self.scale is None else self.weights * self.scale[:, None]

    def assert_unpacks(self, kernels, threads):
        """Some rows come back, bit for bit."""
        first = self.draw.randrange(self.rows)
        last = self.draw.randint(first, self.rows)
        expected = self.dense()[first:last]
        for unpack, matrix in (
            (kernels.bits_unpack, self.bits),
            (kernels.index_unpack, self.index),
        ):
            out = torch.full_like(expected, 77)
            unpack(matrix, first, last, out.data_ptr(), threads)
            pattern = PATTERNS[out.element_size()]
            assert torch.equal(out.view(pattern), expected.view(pattern))

    def assert_multiplies(self, kernels, threads):
        """As float64 does, within the sum's bound in float32 and one rounding of the output."""
        tokens = self.draw.choice([1, 1, 2, 3, 4, 5, 7, 8, 11, 15, 16, 17])
        x_kind, y_kind, bias_kind = (self.draw.randrange(3) for _ in range(3))
        x, x_stride = self._view(tokens, self.columns, TYPES[x_kind])
        x.copy_(self._floats((tokens, self.columns), TYPES[x_kind]))
        bias = self._floats((self.rows,), TYPES[bias_kind]) if self.draw.random() < 0.5 else None
        expected, bound = reference(self.weights, self.scale, x, bias)
        for linear, matrix in (
            (kernels.bits_linear, self.bits),
            (kernels.index_linear, self.index),
        ):
            y, y_stride = self._view(tokens, self.rows, TYPES[y_kind])
            around = y._base.clone()
            linear(
                matrix,
                Call(
                    tokens, x.data_ptr(), x_stride, y.data_ptr(), y_stride, address(bias),
                    x_kind, y_kind, bias_kind, threads,
                ),
            )  # fmt: skip
            assert_close(y, expected, bound)
            y.fill_(77)
            assert torch.equal(y._base, around), "written beside the output"

    def _view(self, tokens, width, dtype):
        """Rows with room between them, at an odd place."""
        stride, offset = width + self.draw.choice([0, 0, 1, 5, 32]), self.draw.randrange(8)
        base = torch.full((offset + tokens * stride + 3,), 77, dtype=dtype)
        return base.as_strided((tokens, width), (stride, 1), offset), stride


def reference(weights, scale, x, bias):
    """The product in float64, and how far sums in float32 may lie from it."""
    wide = weights.double()
    if scale is not None:
        wide = wide * scale.double()[:, None]
    terms = x.double()[:, None] * wide[None]
    added = torch.zeros(()) if bias is None else bias.double()
    bound = (terms.abs().sum(-1) + added.abs()) * (weights.shape[1] + 2) * 2**-24
    return terms.sum(-1) + added, bound


def assert_close(y, expected, bound):
    """NaN and infinities where they are expected, and nothing else far away."""
    assert torch.equal(y.isnan(), expected.isnan())
    endless = expected.isinf()
    assert torch.equal(y.double()[endless], expected[endless])
    finite = expected.isfinite()
    assert bool(y.isfinite()[finite].all())
    y, expected, bound = y[finite], expected[finite], bound[finite]
    allowed = (expected.abs() + bound) * ROUNDING[y.dtype] + bound + SMALLEST[y.dtype]
    error = (y.double() - expected).abs()
    assert bool((error <= allowed).all()), f"{(error / allowed).max():.3g} times what is allowed"


def sums(counts):
    """What came before each, and all at the end."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def address(tensor):
    return None if tensor is None else tensor.data_ptr()


@pytest.fixture
def kernels():
    known = library()
    if known is None:
        pytest.skip(why_not())
    yield known
    known.functions.sps_use(known.instruction_set.encode())


@pytest.mark.parametrize("part", range(PARTS))
def test_as_float64(kernels, part):
    for seed in range(part, CASES, PARTS):
        turn, place = divmod(seed // PARTS, len(kernels.instruction_sets))
        name = kernels.instruction_sets[place]
        threads = 1 if turn % 12 else 2  # seldom: on a busy machine threads wait for each other
        assert kernels.functions.sps_use(name.encode()) == 0
        matrix = Matrix(seed)
        try:
            matrix.pack(kernels, threads)
            matrix.assert_unpacks(kernels, threads)
            matrix.assert_multiplies(kernels, threads)
        except AssertionError as error:
            error.add_note(
                f"seed {seed}: {matrix.rows} x {matrix.columns}, {matrix.dtype}, {name}, "
                f"{threads} threads"
            )
            raise
