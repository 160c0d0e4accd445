"""The kernels' threads are torch's."""

from pathlib import Path

import pytest
import torch

from steppe.sparse.native import threads as module
from steppe.sparse.native.threads import OF_A_FORK, _came_with_a_fork, _library_at, pool, threads

MAPS = Path("/proc/self/maps")


def openmp_libraries():
    names = {line.split()[-1] for line in MAPS.read_text().splitlines()}
    return {name for name in names if "omp" in Path(name).name and name.startswith("/")}


@pytest.mark.skipif(not MAPS.exists(), reason="no /proc")
def test_no_second_library_is_loaded():
    before = openmp_libraries()
    found = pool()
    assert openmp_libraries() == before
    if "not built" in torch.__config__.parallel_info() or not before:
        pytest.skip("torch has no OpenMP")
    assert found.address
    assert _library_at(found.address) in before
    assert _library_at(found.address) in found.said


def test_torch_without_openmp_means_one_thread(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr("steppe.sparse.native.threads.ctypes.CDLL", missing)
    assert pool().address is None
    assert pool().said.startswith("one thread: ")


def missing(*_, **__):
    raise OSError("not loaded")


def test_as_many_threads_as_torch_has(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert threads() == 7


def test_an_address_of_nothing():
    assert _library_at(1) == "an OpenMP library"


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """A machine where this process was forked from process 7; gives both maps."""
    monkeypatch.setattr(module, "PROCESSES", tmp_path)
    for name in ("self", "7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "maps").write_text(MAPS.read_text())
    (tmp_path / "self" / "stat").write_text("9 (a (b) c) R 7 9 9 0 -1 4194368 101 0")
    return tmp_path


@pytest.fixture
def address():
    if not (known := pool()).address:
        pytest.skip(known.said)
    return known.address


def test_what_the_parent_has_at_the_same_place_came_with_the_fork(address, processes, monkeypatch):
    assert _came_with_a_fork(address)
    monkeypatch.setattr(module, "_library_at", lambda address: "not asked")
    assert pool() == OF_A_FORK
    (processes / "self" / "stat").write_text("9 (python) R 7 9 9 0 -1 4194304 101 0")
    assert not _came_with_a_fork(address), "it started this program"


def test_a_worker_that_loads_torch_itself_has_threads(address, processes):
    parent = processes / "7" / "maps"
    name = _library_at(address)
    lines = [line for line in parent.read_text().splitlines() if not line.endswith(name)]
    parent.write_text("\n".join(lines))
    assert not _came_with_a_fork(address)
    parent.write_text("")  # another program: the parent has ended
    assert _came_with_a_fork(address)
    parent.unlink()
    assert _came_with_a_fork(address)


def test_without_such_a_list_of_processes_nothing_is_known(address, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PROCESSES", tmp_path / "none")
    assert not _came_with_a_fork(address)
