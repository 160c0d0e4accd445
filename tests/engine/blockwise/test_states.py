"""Hidden states in a file: kept when they fit, made when they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from steppe import SteppeError
from steppe.engine import ranks
from steppe.engine.blockwise.states import Activations

SHAPE = (5, 3, 4)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "states.bin"
    made = Activations(path, SHAPE)
    assert len(made) == 5
    assert made.tensor.shape == SHAPE
    assert made.tensor.dtype == torch.float32
    values = torch.randn(SHAPE)
    made.tensor[:3], made.tensor[3:] = values[:3], values[3:]
    made.flush()
    assert torch.equal(Activations(path, SHAPE).tensor, values)
    assert path.read_bytes() == values.numpy().tobytes()
    made.delete()
    assert not path.exists()
    again = Activations(path, SHAPE)
    again.delete()


@pytest.mark.parametrize("size", [0, 1, 4 * 5 * 3 * 4 - 1, 4 * 5 * 3 * 4 + 1])
def test_a_file_of_another_size_is_made_anew(size: int, tmp_path: Path) -> None:
    # as a process leaves it that is killed while the file grows, or another width of states
    path = tmp_path / "states.bin"
    path.write_bytes(b"x" * size)
    assert not Activations.there(path, SHAPE)
    made = Activations(path, SHAPE)
    assert Activations.there(path, SHAPE)
    assert not bool(made.tensor.any())


def test_the_space_is_there_before_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "states.bin"
    Activations(path, (64, 16, 16))
    assert path.stat().st_blocks * 512 >= 4 * 64 * 16 * 16, "no holes"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    path = tmp_path / "states.bin"
    with pytest.raises(SteppeError, match=r"must fit on the disk; got 0\.00 GiB .*No space left"):
        Activations(path, SHAPE)
    assert not path.exists()


def test_a_folder_that_another_machine_does_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "first", lambda: False)
    with pytest.raises(SteppeError, match="must share the folder"):
        Activations(tmp_path / "states.bin", SHAPE)
    assert not list(tmp_path.iterdir())


def test_all_have_the_file_open_before_the_first_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process may be done with it, and delete it, while another still looks for it."""
    path, opened = tmp_path / "x.bin", list[bool]()
    monkeypatch.setattr(ranks, "barrier", lambda: opened.append(str(path) in maps()))
    Activations(path, (2, 3))
    assert opened == [False, True]


def maps() -> str:
    return Path("/proc/self/maps").read_text()
