"""What a process gets: one library, or one sentence."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import steppe.sparse.native.library as native
from steppe.core.errors import SteppeError
from steppe.sparse.native import __main__ as command

MAPS = Path("/proc/self/maps")


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
    with pytest.warns(UserWarning, match="torch's own means") as warned:
        assert native.library() is None
    assert native.library() is None
    assert [str(one.message) for one in warned] == [native.why_not()]
    assert native.why_not() == (
        "zeros are multiplied by torch's own means, which gain no time: no C compiler answers "
        "(tried cc, gcc, clang); install gcc or clang, or name one in STEPPE_SPARSE_CC"
    )
    command.main()
    assert capsys.readouterr().out == native.why_not() + "\n"


def test_what_is_compiled_for_one_process_is_warned_of(kernels, monkeypatch):
    one = native.loaded()
    said = "compiled for this process alone: others may write to /folder"
    monkeypatch.setattr(native, "loaded", lambda: replace(one, said=said))
    with pytest.warns(UserWarning, match=f"^kernels for zeros: {said}$"):
        assert native.library().said[1] == said


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
import os, signal, sys, torch

rows, columns = 4096, 32
x, y = torch.ones(columns), torch.zeros(rows)
bits = torch.full((rows // 4, 1, 4), -1, dtype=torch.int32)
offsets = torch.arange(rows // 4 + 1) * 4 * columns
values = torch.ones(rows * columns + 32)

def multiply():
    from steppe.sparse.native.interface import FLOAT32, BitsArguments, Call
    from steppe.sparse.native.library import library
    y.zero_()
    matrix = BitsArguments(
        rows, columns, FLOAT32, bits.data_ptr(), values.data_ptr(), offsets.data_ptr(), None)
    own = library()
    own.bits_linear(matrix, Call(
        1, x.data_ptr(), columns, y.data_ptr(), rows, None, FLOAT32, FLOAT32, FLOAT32, 2))
    assert y.tolist() == [columns] * rows
    return own.pool

def forked(work):
    child = os.fork()
    if not child:
        signal.alarm(60)  # one that waits for threads that are not there ends so
        try:
            assert work().address is None, "one that forgets its fork"
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

torch.set_num_threads(2)
torch.ones(1 << 20).mul_(2)
assert len(os.listdir("/proc/self/task")) > 1, "no threads to wait for"
"""
ORDERS = {
    "steppe comes after the fork": "print(forked(multiply))",
    "steppe comes before, its kernels after": """
import steppe.sparse.native.library
print(forked(multiply))
""",
    "kernels in use before": """
multiply()
print(forked(multiply))
""",
    "a fork of a fork": """
def again():
    assert forked(multiply) == 0
    return multiply()
print(forked(again))
""",
    "a worker of a DataLoader, with threads": """
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        torch.set_num_threads(2)
        signal.alarm(60)
        multiply()
        return 0
loader = torch.utils.data.DataLoader(Data(), num_workers=1, multiprocessing_context="fork")
print(*next(iter(loader)).tolist())
""",
}


@pytest.mark.skipif(not MAPS.exists(), reason="no /proc")
@pytest.mark.parametrize("order", ORDERS)
def test_a_forked_process_multiplies_too(kernels, order):
    """The parent's threads have not come along; a child that waited for them would not end."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED + ORDERS[order]],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout == "0\n", done.stderr


WORKER = """
import os
if not os.fork():
    from steppe.sparse.native.library import library
    print(bool(library().pool.address), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not MAPS.exists(), reason="no /proc")
def test_a_process_that_loads_torch_after_its_fork_has_threads(kernels):
    if not kernels.pool.address:
        pytest.skip(kernels.pool.said)
    done = subprocess.run(
        [sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout == "True\n", done.stderr
