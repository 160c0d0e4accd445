"""The kernels' threads are torch's."""

from pathlib import Path

import pytest
import torch

from steppe.sparse.native.threads import _library_at, pool, threads

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
