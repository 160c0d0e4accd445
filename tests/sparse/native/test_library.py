"""What a process gets: one library, or one sentence."""

import subprocess
import sys

import pytest

import steppe.sparse.native.library as native
from steppe.core.errors import SteppeError
from steppe.sparse.native import __main__ as command


@pytest.fixture
def anew(monkeypatch):
    """As a process that has not asked yet; afterwards the best instruction set is in use again."""
    kernels = native.library()
    for name in ("STEPPE_SPARSE", "STEPPE_SPARSE_ISA", "STEPPE_SPARSE_CC", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(native, "_known", native._Known())
    yield kernels
    if kernels is not None:
        kernels.functions.sps_use(kernels.instruction_set.encode())


@pytest.fixture
def kernels(anew):
    if anew is None:
        pytest.skip("no library of kernels here")
    return anew


def test_one_library_for_a_process(kernels):
    first = native.library()
    assert native.library() is first
    assert first.instruction_set == first.instruction_sets[0]
    assert first.instruction_sets[-1] == "portable"
    assert native.why_not() == ""


def test_without_a_compiler_there_is_a_sentence(anew, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("STEPPE_SPARSE_CACHE", str(tmp_path))
    assert native.library() is None
    assert native.why_not() == (
        "zeros are multiplied by torch's own means, which gain no time: no C compiler answers "
        "(tried cc, gcc, clang); install gcc or clang, or name one in STEPPE_SPARSE_CC"
    )
    command.main()
    assert capsys.readouterr().out == native.why_not() + "\n"


def test_off(anew, monkeypatch):
    monkeypatch.setenv("STEPPE_SPARSE", "off")
    assert native.library() is None
    assert native.why_not().endswith("STEPPE_SPARSE=off")


def test_each_instruction_set_can_be_forced(kernels, monkeypatch):
    for name in kernels.instruction_sets:
        monkeypatch.setattr(native, "_known", native._Known())
        monkeypatch.setenv("STEPPE_SPARSE_ISA", name)
        assert native.library().instruction_set == name


def test_an_unknown_one_is_refused_in_one_line_every_time(kernels, monkeypatch):
    monkeypatch.setenv("STEPPE_SPARSE_ISA", "avx3")
    for _ in range(2):
        with pytest.raises(SteppeError, match="unknown instruction set in STEPPE_SPARSE_ISA") as e:
            native.library()
        assert "\n" not in str(e.value)
        assert "portable" in str(e.value)


def test_one_of_another_machine_is_refused_with_the_reason(kernels, monkeypatch):
    other = "neon" if "neon" not in kernels.instruction_sets else "avx2"
    monkeypatch.setenv("STEPPE_SPARSE_ISA", other)
    with pytest.raises(SteppeError, match=f"{other}, which is of .* one of .*portable, or unset"):
        native.library()


def test_what_works_is_printed(kernels, capsys):
    command.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"works here, best first: {', '.join(kernels.instruction_sets)}"
    assert "compiled by" in lines[2]


FORKED = """
import os, sys, torch
from steppe.sparse.native.interface import *
from steppe.sparse.native.library import library
kernels = library()
rows, columns = 4096, 32
dense, x = torch.ones(rows, columns), torch.ones(columns)
bits = torch.full((rows // 4, 1, 4), -1, dtype=torch.int32)
offsets = torch.arange(rows // 4 + 1) * 4 * columns
matrix = BitsArguments(
    rows, columns, FLOAT32, bits.data_ptr(), dense.data_ptr(), offsets.data_ptr(), None)
padded = torch.ones(rows * columns + 32)
matrix.values = padded.data_ptr()

def multiply():
    y = torch.zeros(rows)
    kernels.bits_linear(matrix, Call(
        1, x.data_ptr(), columns, y.data_ptr(), rows, None, FLOAT32, FLOAT32, FLOAT32, 2))
    return bool((y == columns).all())

assert multiply()
child = os.fork()
if not child:
    os._exit(0 if multiply() and library() is kernels else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_multiplies_too(kernels):
    """The parent's threads have not come along; a child that waited for them would not end."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "0\n", done.stderr
