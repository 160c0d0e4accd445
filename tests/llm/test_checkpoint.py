"""Reading and writing safetensors, tensor by tensor and shard by shard."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steppe import SteppeError
from steppe.llm import checkpoint
from steppe.llm.checkpoint import (
    INDEX,
    Checkpoint,
    folder_of,
    shard_name,
    write_index,
    write_shard,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards and their index, of three dtypes."""
    write_shard(tmp_path, 1, 2, {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2).half()})
    write_shard(tmp_path, 2, 2, {"c": torch.ones(3, dtype=torch.int64)})
    write_index(tmp_path, 2)
    return tmp_path


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert folder_of(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["./gone", "/gone", "a/b/c", "~/gone"])
def test_paths_are_not_looked_for_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("hub"))
    with pytest.raises(SteppeError, match="check the path"):
        folder_of(name)


def test_hub_ids_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert folder_of("some/model") == tmp_path
    assert asked[0][0] == "some/model"
    assert "*.bin" not in asked[0][1], "pickles are not even downloaded"


def test_shards_of_any_name_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    names = ["model.safetensors-00001-of-00002.safetensors", "mtp.safetensors"]
    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        index = {"weight_map": {"a": names[0], "b": names[1]}}
        (tmp_path / INDEX).write_text(json.dumps(index))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder_of("some/model")
    assert asked[1:] == [names]
    for name in names:
        save_file({"a": torch.ones(1)}, tmp_path / name)
    folder_of("some/model")
    assert len(asked) == 3, "what is there is not asked for again"


@pytest.mark.parametrize("text", ['{"base_model_name_or_path": "some/base"}', "{}", "{", "[]"])
def test_a_folder_of_adapters(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    base = "some/base" if "some" in text else "BASE"
    with pytest.raises(SteppeError, match=rf"adapters.*for {base}.*merge_and_unload.*merge_lora"):
        folder_of(str(tmp_path))


def test_hub_ids_without_a_network() -> None:
    with pytest.raises(SteppeError, match="could not be downloaded"):
        folder_of("steppe-test/no-such-model")


def test_reads_what_was_written(folder: Path) -> None:
    held = Checkpoint(folder)
    assert sorted(held.files) == ["a", "b", "c"]
    found = held.read(["c", "a"])
    assert sorted(found) == ["a", "c"]
    assert torch.equal(found["a"], torch.arange(6.0).view(2, 3))
    assert held.bytes == sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def test_reads_one_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert torch.equal(Checkpoint(tmp_path).read(["a"])["a"], torch.ones(2))


def test_headers_say_dtype_and_shape(folder: Path) -> None:
    assert Checkpoint(folder).headers() == {
        "a": (torch.float32, torch.Size([2, 3])),
        "b": (torch.float16, torch.Size([2])),
        "c": (torch.int64, torch.Size([3])),
    }


def test_shards_are_contiguous_copies_on_the_cpu(tmp_path: Path) -> None:
    write_shard(tmp_path, 1, 1, {"a": torch.arange(6.0).view(2, 3).t()})
    assert (tmp_path / shard_name(1, 1)).name == "model-00001-of-00001.safetensors"
    found = load_file(tmp_path / shard_name(1, 1))["a"]
    assert torch.equal(found, torch.arange(6.0).view(2, 3).t())


def test_the_index_names_each_tensor_once(folder: Path) -> None:
    held = json.loads((folder / INDEX).read_text())
    assert held["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    assert held["metadata"]["total_size"] == write_index(folder, 2)


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(SteppeError, match=r"Pickled weights.*save_pretrained"):
        Checkpoint(tmp_path)


def test_a_missing_shard(folder: Path) -> None:
    (folder / shard_name(2, 2)).unlink()
    with pytest.raises(SteppeError, match=r"no .*model-00002-of-00002.*again"):
        Checkpoint(folder)


def test_a_shard_that_is_cut_off(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SteppeError, match=r"whole safetensors.*model-00001-of-00002"):
        Checkpoint(folder).headers()


def test_a_shard_that_lacks_a_tensor(folder: Path) -> None:
    write_shard(folder, 1, 2, {"a": torch.ones(2, 3)})
    with pytest.raises(SteppeError, match=r"no b in .*model-00001-of-00002"):
        Checkpoint(folder).headers()


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"weight_map": 3}'])
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(SteppeError, match="weight_map"):
        Checkpoint(folder)


@pytest.mark.parametrize("portion", [1, 1 << 20])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none(
    folder: Path, value: float, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_PORTION", portion)
    Checkpoint(folder).check_finite()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        write_shard(folder, 2, 2, {"c": torch.tensor([1.0, value, 2.0], dtype=dtype)})
        with pytest.raises(SteppeError, match=r"NaN or infinity in c of .*00002-of-00002"):
            Checkpoint(folder).check_finite()


def test_empty_tensors_are_finite(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(0, 3)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    checkpoint.check_finite()  # refuses nothing
    assert checkpoint.read(["a"])["a"].shape == (0, 3)


@pytest.mark.parametrize("portion", [4, 1 << 20])
def test_whether_two_tensors_are_equal(
    portion: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_PORTION", portion)
    tensor = torch.arange(12.0).view(4, 3)
    other = tensor.clone()
    other[-1, -1] += 1
    tensors = {"a": tensor, "same": tensor.clone(), "other": other, "half": tensor.half()}
    tensors |= {"flat": torch.arange(12.0), "one": torch.tensor(1.0), "two": torch.tensor(2.0)}
    save_file(tensors, tmp_path / "model.safetensors")
    stored = Checkpoint(tmp_path)
    assert stored.same("a", "same")
    assert not any(stored.same("a", name) for name in ("other", "half", "flat"))
    assert stored.same("one", "one")
    assert not stored.same("one", "two")


def test_portions_are_as_large_as_they_may_be(folder: Path) -> None:
    stored = Checkpoint(folder)  # a: 24 bytes, b: 4, c: 24
    assert stored.portions(["a", "b", "c"], 28) == [["a", "b"], ["c"]]
    assert stored.portions(["a", "c"], 1) == [["a"], ["c"]]
    assert stored.portions([], 1) == []


def test_the_digest_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        taken = hashlib.sha256()
        Checkpoint(folder).check_finite(taken)
        return taken.hexdigest()

    whole, other = tmp_path / "whole", tmp_path / "other"
    tensors = {k: v.clone() for k, v in Checkpoint(folder).read("abc").items()}
    for place in (whole, other):
        place.mkdir()
    save_file(tensors, whole / "model.safetensors")
    assert digest(whole) == digest(folder), "however it lies in files"
    changed = [{"a": tensors["a"].view(3, 2)}, {"a": -tensors["a"]}, {"b": torch.ones(2).short()}]
    for change in changed:
        save_file(tensors | change, other / "model.safetensors")
        assert digest(other) != digest(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits_are_refused_by_their_header(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    save_file({"a": torch.ones(2, 2).to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(SteppeError, match=r"16 bits or more; got F8_E.* in a of"):
        Checkpoint(tmp_path).headers()
