"""One file for all processes, or one for each: what goes on, and what is refused."""

import pytest
import torch
from torch import nn

from steppe import SteppeError
from steppe.engine.checkpoints import Checkpoints
from steppe.engine.run_folder import LAST, RunFolder


def made(path, width=3):
    model = nn.Linear(width, 2)
    return Checkpoints(RunFolder(path, {}), model), model


def test_the_weights_come_back_with_what_was_saved(tmp_path):
    (tmp_path / "recipe.yaml").write_text("{}")
    checkpoints, model = made(tmp_path)
    assert checkpoints.load() is None
    checkpoints.save(lambda: {"sparsifier": {"step": 4}})
    again, other = made(tmp_path)
    assert again.load()["sparsifier"] == {"step": 4}
    assert torch.equal(model.weight, other.weight)
    with pytest.raises(SteppeError, match="of the model that goes on"):
        made(tmp_path, width=5)[0].load()


def test_a_damaged_file_is_no_file_of_another_run(tmp_path):
    (tmp_path / "recipe.yaml").write_text("{}")
    checkpoints, _ = made(tmp_path)
    checkpoints.save(dict)
    (tmp_path / "checkpoints" / LAST).write_text("x")
    assert checkpoints.load() is None
    assert "damaged" in " ".join(checkpoints.notes)


def test_a_run_of_split_processes_goes_on_as_such(tmp_path):
    (tmp_path / "recipe.yaml").write_text("{}")
    run = RunFolder(tmp_path, {})
    run.save_checkpoint({"sparsifier": {"step": 1}}, "-1-of-2")
    with pytest.raises(SteppeError, match=r"last-1-of-2.safetensors in .*and 1 processes"):
        made(tmp_path)[0].load()


def test_of_two_files_the_one_that_all_have_is_taken(tmp_path):
    run = RunFolder(tmp_path, {})
    for step in (1, 2):
        run.save_checkpoint({"sparsifier": {"step": step}}, "-1-of-2")
    assert run.load_checkpoint("-1-of-2", lambda steps: steps[-1])["sparsifier"]["step"] == 1
    assert run.load_checkpoint("-1-of-2", lambda steps: None) is None
    assert "begins anew" in " ".join(run.notes)
    assert run.load_checkpoint("-1-of-2")["sparsifier"]["step"] == 2
