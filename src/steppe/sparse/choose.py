"""Which format is the fastest for a matrix of some kind here: measured once, then remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.notes import note
from steppe.core.processor import last_level_cache, processor
from steppe.core.serialization import write_text
from steppe.core.speed import Speed
from steppe.engine.model_latency import in_turns
from steppe.sparse.format import FORMATS, Format, exact_dtype
from steppe.sparse.layouts import CPU
from steppe.sparse.native.build import alone, sources_hash
from steppe.sparse.native.library import library
from steppe.sparse.triton.bits import CHUNKS, UNPACK_CHUNKS, kernels

MARGIN = 1.03
"""Times as fast as dense that the lower bound must be above, for a format to be taken."""
STEP = 0.025
"""Sparsities are rounded to a multiple of this."""
_MOST = 256 << 20  # bytes of copies
_TURNS = 15


@dataclass(frozen=True, kw_only=True)
class Question:
    """A kind of product that a format is chosen for.

    Args:
        rows: outputs.
        columns: inputs.
        stored: dtype that the values can be stored in.
        dtype: of x and of the dense matrix.
        tokens: rows of x.
        sparsity: share of zeros, a multiple of 2.5 %.
        device: cpu, cuda, ...

    Example:
        >>> weight = torch.eye(64)
        >>> Question.of(weight, tokens=1).sparsity
        0.975
    """

    rows: int
    columns: int
    stored: str
    dtype: str
    tokens: int
    sparsity: float
    device: str = "cpu"

    @classmethod
    def of(cls, weight: Tensor, *, tokens: int) -> Question:
        """About a matrix."""
        kept = int(torch.count_nonzero(weight))
        stored, device = exact_dtype(weight), weight.device
        return cls.about(weight.shape, kept, stored, weight.dtype, tokens, device)

    @classmethod
    def about(
        cls,
        shape: tuple[int, ...],
        kept: int,
        stored: torch.dtype,
        dtype: torch.dtype,
        tokens: int = 1,
        device: torch.device = CPU,
    ) -> Question:
        """About a matrix of which only this is known."""
        rows, columns = shape
        share = 1 - kept / max(rows * columns, 1)
        return cls(
            rows=rows,
            columns=columns,
            stored=_name(stored),
            dtype=_name(dtype),
            tokens=tokens,
            sparsity=round(round(share / STEP) * STEP, 4),
            device=device.type,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The format that was chosen, and why.

    Args:
        format: its name.
        why: in words.
        speeds: format -> how many times as fast as dense it was (`steppe.core.speed.Speed`).
    """

    format: str
    why: str
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)


Measure = Callable[[Question], dict[str, Speed]]
"""Format -> how many times as fast as dense it is."""


def choice_for(weight: Tensor, *, tokens: int = 1) -> Choice:
    """The fastest format for a matrix; dense where none is surely faster.

    Args:
        weight: ``[rows, columns]``.
        tokens: rows of x.
    """
    return choose(Question.of(weight, tokens=tokens))


def choose(question: Question, measure: Measure | None = None) -> Choice:
    """The fastest format for a kind of product; it is measured where that is not known yet.

    What was measured is kept in the user's cache, in a file that is named by all that the answer
    depends on: the processor or GPU, threads, torch, the kernels. Another machine finds nothing
    there. One process measures at a time; the others wait, and take what it has written.

    Args:
        question: what is multiplied.
        measure: in the place of `measured`; nothing is remembered then.

    Example:
        >>> question = Question.of(torch.eye(64), tokens=1)
        >>> pairs = [(2.0, 1.0)] * 9
        >>> choose(question, lambda _: {"bits": Speed.of(pairs)}).why
        'bits is 2.00 times as fast as dense here'
    """
    if measure is not None:
        return decided(measure(question))
    here = conditions() | of_gpu(question.device)
    decided_by = here | {"question": asdict(question)}
    path = _path(decided_by)
    known = remembered(question)
    if known is None:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a folder or a system without locks
                stack.enter_context(alone(_path(here)))
            known = _read(path, decided_by) or _measured_and_kept(question, path, decided_by)
    _KNOWN[path] = known
    return known


def _measured_and_kept(question: Question, path: Path, decided_by: dict[str, Any]) -> Choice:
    choice = decided(measured(question))
    try:
        content = {"decided_by": decided_by, "choice": asdict(choice)}
        write_text(path, json.dumps(content, indent=2) + "\n")
    except SteppeError as error:
        cause = error.__cause__
        _warn(path.parent, cause.strerror if isinstance(cause, OSError) else str(cause))
    return choice


@cache
def _warn(folder: Path, why: str | None) -> None:
    """A home that cannot be written costs time, no more; it is said once."""
    note(
        f"which format is the fastest is measured again by each process, since it cannot be kept "
        f"in {folder} ({why}); set XDG_CACHE_HOME to a folder that can be written",
        stacklevel=4,
    )


_KNOWN: dict[Path, Choice] = {}


def remembered(question: Question) -> Choice | None:
    """What was chosen before for such a product here; None where nothing was measured yet."""
    decided_by = conditions() | of_gpu(question.device) | {"question": asdict(question)}
    path = _path(decided_by)
    return _KNOWN.get(path) or _read(path, decided_by)


def decided(speeds: dict[str, Speed]) -> Choice:
    """The fastest of those that are surely faster than dense.

    Example:
        >>> decided({"bits": Speed.of([(1.0, 1.0)] * 9)}).format
        'dense'
    """
    records = {name: speed.record() for name, speed in speeds.items()}
    sure = {name: speed.ratio for name, speed in speeds.items() if speed.low > MARGIN}
    if sure:
        best = max(sure, key=lambda name: sure[name])
        why = f"{best} is {sure[best]:.2f} times as fast as dense here"
        return Choice(format=best, why=why, speeds=records)
    if not speeds:
        return Choice(format="dense", why="no format is smaller, or has a product here")
    name = max(speeds, key=lambda name: speeds[name].ratio)
    own = speeds[name]
    bounds = f"{own.low:.2f} to {own.high:.2f} times as fast as dense here"
    return Choice(format="dense", why=f"{name} is not surely faster: {bounds}", speeds=records)


@torch.no_grad()
def measured(question: Question) -> dict[str, Speed]:
    """Each format beside dense, in turns, on a random matrix that the processor's cache forgot.

    A turn goes over so many copies that they do not fit into the last-level cache together. Of a
    matrix that is larger than that by itself some rows are measured: the others take as long.
    """
    dtype, stored = getattr(torch, question.dtype), getattr(torch, question.stored)
    generator = torch.Generator().manual_seed(0)
    device = torch.device(question.device)
    beyond = max(1, _beyond(device) // (question.columns * dtype.itemsize))
    shape = min(question.rows, beyond), question.columns
    weight = torch.randn(shape, generator=generator).to(stored).to(dtype)
    weight.masked_fill_(torch.rand(shape, generator=generator) < question.sparsity, 0)
    x = torch.randn(question.tokens, question.columns, generator=generator).to(device, dtype)
    weight = weight.to(device)
    packed: dict[str, Format] = {}
    for name in FORMATS:
        if name != "dense" and FORMATS[name].quick(device):
            matrix = FORMATS[name].from_dense(weight)
            if matrix.bytes < weight.numel() * weight.element_size():
                packed[name] = matrix
    if not packed:
        return {}
    size = weight.numel() * weight.element_size()
    kind = FORMATS["dense"]
    dense = [kind.from_dense(weight.clone()) for _ in range(_copies(size, device))]
    works: list[Callable[[], Any]] = [partial(_products, dense, x)]
    counts = [len(dense)]
    for matrix in packed.values():
        more = range(_copies(matrix.bytes, device) - 1)
        copies = [matrix, *(matrix.mapped(torch.clone) for _ in more)]
        works.append(partial(_products, copies, x))
        counts.append(len(copies))
    together = in_turns(works, _TURNS, cuda=device.type == "cuda")
    times = [[time / count for time in own] for own, count in zip(together, counts, strict=True)]
    return {
        name: Speed.of(list(zip(times[0], own, strict=True)))
        for name, own in zip(packed, times[1:], strict=True)
    }


def _products(matrices: Sequence[Format], x: Tensor) -> None:
    for matrix in matrices:
        matrix.linear(x, None)


def _copies(size: int, device: torch.device) -> int:
    """How many of a size are more than the processor keeps at hand."""
    return max(1, -(-_beyond(device) // max(size, 1)))


def _beyond(device: torch.device) -> int:
    """More bytes than the processor, or any GPU, keeps at hand."""
    return min(2 * last_level_cache(), _MOST) if device.type == "cpu" else _MOST


def conditions() -> dict[str, Any]:
    """What a choice depends on beside the product."""
    native = library()
    alone = native is not None and not native.pool.address  # a forked process
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "instruction_set": native.instruction_set if native else "none",
        "kernels": _sources(),
        "formats": list(FORMATS),
    } | ({"kernels_threads": 1} if alone else {})


def of_gpu(device: str) -> dict[str, Any]:
    """What a choice for a GPU depends on too; nothing for a processor."""
    if device != "cuda":
        return {} if device == "cpu" else {"device": device}
    programs = kernels()
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "triton": programs.triton.__version__ if programs is not None else "none",
        "programs": [CHUNKS, UNPACK_CHUNKS],
    }


@cache
def _sources() -> str:
    return sources_hash()


def _path(decided_by: dict[str, Any]) -> Path:
    try:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        home = os.devnull  # where nothing can be kept
    name = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
    return Path(home) / "steppe" / "sparse" / f"{name}.json"


def _read(path: Path, decided_by: dict[str, Any]) -> Choice | None:
    """What a file says, if it is about this; a file that is damaged counts as none."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["decided_by"] != decided_by:
            return None
        choice = Choice(**stored["choice"])
        is_whole = isinstance(choice.why, str) and isinstance(choice.speeds, dict)
        return choice if is_whole and choice.format in FORMATS else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
