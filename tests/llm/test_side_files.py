"""What lies beside a model's weights: what is fetched, what is copied, what is not."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from steppe.llm.side_files import ENDINGS, hub_patterns, is_weights, left_out, side_files

BESIDE = [
    "LICENSE",
    "README.md",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "config.json",
    "custom_generate/generate.py",
    "merges.txt",
    "modeling_own.py",
    "preprocessor_config.json",
    "qwen.tiktoken",
    "source.spm",
    "tokenizer.model",
    "tokenizer.model.v3",
    "vocab.bpe",
]
WEIGHTS = ["model-00001-of-00002.safetensors", "model-00001-of-000163.safetensors"]
COPIES = [
    "consolidated.00.pth",
    "consolidated.safetensors",
    "flax_model.msgpack",
    "model-Q4.gguf",
    "model.fp16.safetensors",
    "model.fp16-00001-of-00002.safetensors",
    "onnx/model.onnx",
    "onnx/model.onnx_data",
    "original/model.safetensors",
    "original/model-00001-of-00002.safetensors",
    "pytorch_model.bin",
    "tf_model.h5",
]


def fetched(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in hub_patterns())


@pytest.mark.parametrize(
    "name",
    [*BESIDE, *WEIGHTS, "model.safetensors", "2_Dense/model.safetensors", "n", "bin", "x.tibin"],
)
def test_fetched_from_the_hub(name: str) -> None:
    assert fetched(name)


@pytest.mark.parametrize("name", [*COPIES, *(f"a/b{ending}" for ending in ENDINGS), *ENDINGS])
def test_not_fetched_from_the_hub(name: str) -> None:
    assert not fetched(name)
    assert is_weights(name)


def test_everything_but_weights_is_copied(tmp_path: Path) -> None:
    others = ["original/params.json", "checkpoint-5/trainer_state.json", "checkpoint-5/a.pt"]
    hidden = [".git/config", ".gitattributes", "checkpoints/journal.json"]
    indexes = ["model.safetensors.index.json", "pytorch_model.bin.index.json"]
    for name in [*BESIDE, *WEIGHTS, *COPIES, *others, *hidden, *indexes]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert side_files(tmp_path) == BESIDE
    (said,) = left_out(tmp_path, [tmp_path / name for name in WEIGHTS], tmp_path / "checkpoint-5")
    copies = sorted(name for name in COPIES if "/" not in name)
    assert said.partition(":")[0].split(", ") == sorted([*copies, "onnx", "original"])


def test_what_the_list_of_modules_names_belongs_to_the_model(tmp_path: Path) -> None:
    parts = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    masks = "masks-00001-of-00002.safetensors"
    for name in [*parts, masks, "model.safetensors", "best/model.safetensors", "best/config.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    paths = ["", "1_Pooling", "2_Dense"]
    (tmp_path / "modules.json").write_text(json.dumps([{"path": path} for path in paths]))
    assert side_files(tmp_path) == [*parts, "modules.json"]
    own = [tmp_path / "model.safetensors"]
    assert left_out(tmp_path, own, tmp_path.parent / "out")[0].startswith("best: weights beside")


def test_files_behind_links_as_the_hubs_cache_has_them(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a1b").write_text("{}")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "config.json").symlink_to("../blobs/0a1b")
    (snapshot / "gone.json").symlink_to("../blobs/gone")
    assert side_files(snapshot) == ["config.json"]
