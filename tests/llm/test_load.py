"""Loading a language model to be measured: nothing random, nothing run, one line when wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steppe.core.errors import SteppeError
from steppe.llm.load import load


@pytest.fixture
def folder(language_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(language_model, tmp_path / "model"))


def rewrite(folder: Path, change: object) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)  # type: ignore[operator]
    save_file(tensors, path, {"format": "pt"})


def test_half_precision_is_widened_on_a_cpu_unless_asked_for(folder: Path) -> None:
    rewrite(folder, lambda held: held.update({k: v.half() for k, v in held.items()}))
    stored = load_file(folder / "model.safetensors")
    model, tokenizer = load(str(folder))
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer("a b")["input_ids"] == [1, 2]
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.get_parameter(name), stored[name].float())
    assert load(str(folder), dtype="float16")[0].dtype == torch.float16


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    rewrite(folder, lambda held: held.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(SteppeError, match=r"1 missing.*layers\.1\.mlp\.up_proj"):
        load(str(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(folder, lambda held: held.update({name: torch.zeros(3, 3)}))
    with pytest.raises(
        SteppeError, match=r"1 missing or of another shape.*layers\.1\.mlp\.up_proj"
    ):
        load(str(folder))


def test_only_safetensors_are_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SteppeError, match="could not be loaded"):
        load(str(folder))


def test_code_of_a_model_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(SteppeError, match="could not be loaded"):
        load(str(folder))


def test_no_tokenizer_no_folder_no_such_dtype(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(SteppeError, match="holds its tokenizer"):
        load(str(folder))
    with pytest.raises(SteppeError, match="hub id"):
        load(str(folder / "absent"))
    with pytest.raises(SteppeError, match="unknown dtype"):
        load(str(folder), dtype="int4")
    with pytest.raises(SteppeError, match="--device cpu"):
        load(str(folder), device="warp")


def test_half_precision_that_is_slow_here_is_told_what_it_costs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("steppe.llm.load.bfloat16_ratio", lambda *_: 0.1)
    load(str(folder))
    assert "half precision" not in capsys.readouterr().err
    load(str(folder), dtype="bfloat16")
    assert "half precision takes about 10.0 times as long as float32" in capsys.readouterr().err
    monkeypatch.setattr("steppe.llm.load.bfloat16_ratio", lambda *_: 1.0)
    load(str(folder), dtype="bfloat16")
    assert "half precision" not in capsys.readouterr().err
