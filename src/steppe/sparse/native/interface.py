"""The C interface of `steppe_sparse.h` for Python: structures, functions, and a first look."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Sequence
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_void_p
from itertools import accumulate
from pathlib import Path

ABI = 1
PADDING = 128  # bytes behind values and columns that may be read
ROWS = 4  # in a group
CHUNK = 32  # columns in a chunk
TILE = 4096  # columns in a tile of the index layout
FLOAT32, BFLOAT16, FLOAT16, INT8 = range(4)
OK, MEMORY, UNKNOWN = range(3)


class BitsArguments(ctypes.Structure):
    """A matrix in the layout *bits*; pointers are addresses (``tensor.data_ptr()``) or None."""

    _fields_ = [
        ("rows", c_int64),
        ("columns", c_int64),
        ("value_type", c_int32),
        ("bits", c_void_p),
        ("values", c_void_p),
        ("offsets", c_void_p),
        ("scale", c_void_p),
    ]


class IndexArguments(ctypes.Structure):
    """A matrix in the layout *index*; pointers are addresses or None."""

    _fields_ = [
        ("rows", c_int64),
        ("columns", c_int64),
        ("value_type", c_int32),
        ("starts", c_void_p),
        ("columns_of", c_void_p),
        ("values", c_void_p),
        ("scale", c_void_p),
    ]


class Call(ctypes.Structure):
    """What a matrix is multiplied with; strides count elements, ``bias`` None for none."""

    _fields_ = [
        ("tokens", c_int64),
        ("x", c_void_p),
        ("x_stride", c_int64),
        ("y", c_void_p),
        ("y_stride", c_int64),
        ("bias", c_void_p),
        ("x_type", c_int32),
        ("y_type", c_int32),
        ("bias_type", c_int32),
        ("threads", c_int32),
    ]


class Source(ctypes.Structure):
    """What is packed: dense rows (``mask`` None), or kept values beside one bit for each weight."""

    _fields_ = [
        ("rows", c_int64),
        ("columns", c_int64),
        ("size", c_int32),
        ("source", c_void_p),
        ("mask", c_void_p),
        ("row_starts", c_void_p),
    ]


class Unusable(Exception):
    """A library that cannot be used here, and why."""


class Uncompilable(Unusable):
    """The compiler does not make one of the sources, in no folder."""


PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "sps_abi": (c_int32, []),
    "sps_instruction_sets": (c_char_p, []),
    "sps_use": (c_int32, [c_char_p]),
    "sps_parallel": (None, [c_void_p]),
    "sps_bits_linear": (c_int32, [POINTER(BitsArguments), POINTER(Call)]),
    "sps_index_linear": (c_int32, [POINTER(IndexArguments), POINTER(Call)]),
    "sps_bits_unpack": (c_int32, [POINTER(BitsArguments), c_int64, c_int64, c_void_p, c_int32]),
    "sps_index_unpack": (c_int32, [POINTER(IndexArguments), c_int64, c_int64, c_void_p, c_int32]),
    "sps_count": (c_int32, [POINTER(Source), c_void_p, c_int32]),
    "sps_bits_pack": (c_int32, [POINTER(Source), c_void_p, c_void_p, c_void_p, c_int32]),
    "sps_index_pack": (c_int32, [POINTER(Source), c_void_p, c_void_p, c_void_p, c_int32]),
}


def load(path: Path) -> ctypes.CDLL:
    """The library of a file, with the types of its functions, after a first look at what it does.

    Args:
        path: to a shared library whose content is known to be whole; a damaged one may end the
            process.

    Raises:
        Unusable: it is no library of this machine, has another interface, or multiplies wrongly.
    """
    try:
        functions = ctypes.CDLL(str(path))
        for name, (result, arguments) in PROTOTYPES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise Unusable(f"{path} is no library of kernels for this machine ({error})") from error
    abi = functions.sps_abi()
    if abi != ABI:
        raise Unusable(f"{path} has interface {abi}, this version of steppe needs {ABI}")
    names = instruction_sets(functions)
    for name in names:
        functions.sps_use(name.encode())
        if not (_bits_multiply(functions) and _index_multiply(functions)):
            raise Unusable(f"{path} multiplies wrongly with {name}")
    functions.sps_use(names[0].encode())
    return functions


def instruction_sets(functions: ctypes.CDLL) -> list[str]:
    """Those that were compiled in and work here, best first."""
    return str(functions.sps_instruction_sets().decode()).split(",")


# A product of small whole numbers, which every type and every order of summation gives exactly.
_LINES, _WIDTH = 5, 70
_X = [column % 5 - 2.0 for column in range(_WIDTH)]
_DENSE = [
    [float((7 * row + 3 * column) % 11 - 5) * ((row + column) % 2) for column in range(_WIDTH)]
    for row in range(_LINES)
]
_Y = [sum(w * x for w, x in zip(row, _X, strict=True)) for row in _DENSE]


def _floats(numbers: Sequence[float]) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack(f"{len(numbers)}f", *numbers))


def _longs(numbers: Sequence[int]) -> ctypes.Array[c_int64]:
    return (c_int64 * len(numbers))(*numbers)


def _sums(counts: Iterable[int]) -> list[int]:
    return list(accumulate(counts, initial=0))


def _address(buffer: object) -> int:
    return ctypes.addressof(buffer)  # type: ignore[arg-type]


def _source(dense: ctypes.Array[ctypes.c_char]) -> Source:
    return Source(_LINES, _WIDTH, 4, _address(dense), None, None)


def _is_right(function: object, matrix: ctypes.Structure) -> bool:
    x, y = _floats(_X), _floats([float("nan")] * _LINES)
    call = Call(1, _address(x), _WIDTH, _address(y), _LINES, None, FLOAT32, FLOAT32, FLOAT32, 1)
    code = function(byref(matrix), byref(call))  # type: ignore[operator]
    return code == OK and list(struct.unpack_from(f"{_LINES}f", y)) == _Y


def _bits_multiply(functions: ctypes.CDLL) -> bool:
    dense = _floats([number for row in _DENSE for number in row])
    counts = (c_int64 * _LINES)()
    code = functions.sps_count(byref(_source(dense)), _address(counts), 1)
    groups, chunks = -(-_LINES // ROWS), -(-_WIDTH // CHUNK)
    offsets = _longs(_sums([sum(counts[ROWS * g : ROWS * (g + 1)]) for g in range(groups)]))
    bits = (ctypes.c_uint32 * (groups * chunks * ROWS))()
    values = ctypes.create_string_buffer(4 * sum(counts) + PADDING)
    code |= functions.sps_bits_pack(
        byref(_source(dense)), _address(offsets), _address(bits), _address(values), 1
    )
    matrix = BitsArguments(
        _LINES, _WIDTH, FLOAT32, _address(bits), _address(values), _address(offsets), None
    )
    return code == OK and _is_right(functions.sps_bits_linear, matrix)


def _index_multiply(functions: ctypes.CDLL) -> bool:
    dense = _floats([number for row in _DENSE for number in row])
    counts = (c_int64 * _LINES)()
    code = functions.sps_count(byref(_source(dense)), _address(counts), 1)
    starts = _longs(_sums(counts))
    columns = ctypes.create_string_buffer(2 * sum(counts) + PADDING)
    values = ctypes.create_string_buffer(4 * sum(counts) + PADDING)
    code |= functions.sps_index_pack(
        byref(_source(dense)), _address(starts), _address(columns), _address(values), 1
    )
    matrix = IndexArguments(
        _LINES, _WIDTH, FLOAT32, _address(starts), _address(columns), _address(values), None
    )
    return code == OK and _is_right(functions.sps_index_linear, matrix)
