"""Bits and values: lossless to the last bit, whatever the dtype, and honest about its size."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steppe.core.errors import SteppeError
from steppe.llm.compact import (
    CompactCheckpoint,
    compress,
    expected_ratio,
    load_compact,
    read_compact,
    restore,
)
from steppe.llm.export import export
from steppe.llm.verify import same_bits

transformers = pytest.importorskip("transformers")
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8]


def write_run(folder: Path, kind: str = "Llama", **options: Any) -> None:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        **options,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(torch.float16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                # exactly half of every row
                drop = torch.rand(weight.shape).argsort(-1) < weight.shape[-1] // 2
                weight.masked_fill_(drop, 0)
    model.save_pretrained(folder, max_shard_size="100KB")
    (folder / "recipe.yaml").write_text("method: {}\n")
    (folder / "record.json").write_text("{}\n")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(64, 64), (3, 17, 40), (33, 31)])
def test_every_bit_comes_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight = (torch.randn(shape) * 50 * (torch.rand(shape) > 0.7)).to(dtype)
    packed = compress("w", weight)
    assert packed
    assert same_bits(restore("w", packed), weight)


def test_minus_zero_nan_and_infinity_come_back() -> None:
    weight = torch.zeros(64, 64)
    weight[0, :4] = torch.tensor([-0.0, float("nan"), float("inf"), 1e-45])
    assert same_bits(restore("w", compress("w", weight)), weight)
    assert compress("w", weight)["w.values"].numel() == 4
    assert same_bits(restore("w", compress("w", torch.zeros(8, 16))), torch.zeros(8, 16))


def test_what_would_grow_stays_as_it_is() -> None:
    assert compress("w", torch.ones(64, 64)) == {}
    assert compress("w", torch.zeros(64)) == {}, "a vector is no matrix"
    assert compress("w", torch.zeros(64, 64, dtype=torch.bool)) == {}


def test_a_model_is_written_and_read_bit_for_bit(tmp_path: Path) -> None:
    write_run(tmp_path / "run", tie_word_embeddings=True)
    done = export(tmp_path / "run", "compact", tmp_path / "out")
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record == done.record
    assert record["finished"]
    assert record["verified"] == {"tensors": record["verified"]["tensors"], "logits": True}
    share = record["matrices_bytes_after"] / record["matrices_bytes_before"]
    # the shapes' 16 bytes per matrix come on top
    assert expected_ratio(0.5, 16) == 0.5625
    assert share == pytest.approx(0.5625, abs=0.005)
    assert record["matrices"] == 14
    sizes = [
        sum(p.stat().st_size for p in (tmp_path / f).glob("*.safetensors")) for f in ("run", "out")
    ]
    assert [record["bytes_before"], record["bytes_after"]] == sizes
    assert record["ratio"] == sizes[1] / sizes[0]
    assert (tmp_path / "out/recipe.yaml").read_text() == "method: {}\n"
    state = read_compact(tmp_path / "out")
    for path in (tmp_path / "run").glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert same_bits(state.pop(name), tensor)
    assert not state
    loaded = load_compact(tmp_path / "out").eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, plain(tokens).logits)
    assert loaded.dtype == torch.float16
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_experts_as_the_checkpoint_names_them(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "Mixtral", num_local_experts=2)
    record = export(tmp_path / "run", "compact", tmp_path / "out").record
    assert record["verified"]["logits"] is True
    assert record["matrices"] == 2 * (4 + 2 * 3)


def test_shard_by_shard(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    export(tmp_path / "run", "compact", tmp_path / "out", verify="tensors")
    shards = sorted((tmp_path / "out").glob("compact-*.safetensors"))
    assert len(shards) == len(list((tmp_path / "run").glob("model-*.safetensors"))) > 1
    with safe_open(shards[0], framework="pt") as file:
        assert json.loads(file.metadata()["compact"])
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["verified"]["logits"] is None
    # again, and over what an interrupted export left
    export(tmp_path / "run", "compact", tmp_path / "out", verify="tensors")
    os.remove(shards[0])
    with pytest.raises(SteppeError, match="of its files"):
        read_compact(tmp_path / "out")


def test_a_damaged_result_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import steppe.llm.compact as module

    write_run(tmp_path / "run")
    whole = module.write_tensors

    def damaging(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        for name, tensor in tensors.items():
            if name.endswith(".values"):
                tensor[0] += 1
        whole(path, tensors, metadata)

    monkeypatch.setattr(module, "write_tensors", damaging)
    with pytest.raises(SteppeError, match="must read back bit for bit"):
        export(tmp_path / "run", "compact", tmp_path / "out")
    assert not (tmp_path / "out").exists(), "half an export is none"


def test_a_dense_model_gains_nothing_and_is_told_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    save_file({"w": torch.ones(64, 64)}, run / "model.safetensors", {"format": "pt"})
    done = export(run, "compact", tmp_path / "out", verify="tensors")
    assert done.record["matrices"] == 0
    assert any("no gain" in line for line in done.lines)


def test_folders_and_options_are_checked(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("x")
    with pytest.raises(SteppeError, match="--out must be"):
        export(tmp_path / "run", "compact", tmp_path / "other")
    with pytest.raises(SteppeError, match="--out must be"):
        export(tmp_path / "run", "compact", tmp_path / "run")
    with pytest.raises(SteppeError, match="unknown export target"):
        export(tmp_path / "run", "abacus", tmp_path / "out")
    with pytest.raises(SteppeError, match="unknown option of --to compact"):
        export(tmp_path / "run", "compact", tmp_path / "out", tokens="1")
    with pytest.raises(SteppeError, match="--verify is"):
        export(tmp_path / "run", "compact", tmp_path / "out", verify="nothing")
    with pytest.raises(SteppeError, match="safetensors"):
        export(tmp_path / "other", "compact", tmp_path / "out")
    with pytest.raises(SteppeError, match="0 of its files"):
        load_compact(tmp_path / "run")
    assert not (tmp_path / "out").exists()


def damage(shard: Path, key: str, part: str, change: Any) -> None:
    with safe_open(shard, framework="pt") as file:
        metadata = file.metadata()
    stored = load_file(shard)
    changed = change(stored.pop(f"{key}.{part}"))
    save_file(stored | ({} if changed is None else {f"{key}.{part}": changed}), shard, metadata)


DAMAGES: list[tuple[str, Any]] = [
    ("values", lambda v: v[:-1].clone()),
    ("values", lambda v: torch.cat([v, v])),
    ("values", lambda v: v[None].clone()),
    ("bits", lambda b: b | 0x80),
    ("bits", lambda b: b[:-1].clone()),
    ("bits", lambda b: torch.cat([b, b])),
    ("bits", lambda b: b.view(torch.int8)),
    ("shape", lambda s: -s),
    ("shape", lambda s: s.float()),
    ("shape", lambda s: s[None].clone()),
    ("values", lambda _: None),
    ("bits", lambda _: None),
    ("shape", lambda _: None),
]


def test_a_malformed_matrix_is_one_line_with_its_name(tmp_path: Path) -> None:
    key = "model.layers.0.mlp.up_proj.weight"
    weight = torch.zeros(128, 64, dtype=torch.float16)
    weight[1:, :32] = 1
    for number, (part, change) in enumerate(DAMAGES):
        folder = tmp_path / str(number)
        folder.mkdir()
        shard = folder / "compact-00001-of-00001.safetensors"
        save_file(compress(key, weight), shard, {"compact": json.dumps([key])})
        whole = CompactCheckpoint(folder)
        assert whole.headers() == {key: (torch.float16, weight.shape)}
        assert same_bits(whole.read([key])[key], weight)
        damage(shard, key, part, change)

        def checkpoint(folder: Path = folder) -> None:
            stored = CompactCheckpoint(folder)
            stored.headers()
            stored.packed(key)

        for read in (checkpoint, lambda folder=folder: read_compact(folder)):
            with pytest.raises(SteppeError, match=key.replace(".", r"\.")) as error:
                read()
            assert "\n" not in str(error.value)


def test_a_nan_keeps_its_payload() -> None:
    weight = torch.zeros(64, 64, dtype=torch.bfloat16)
    weight.view(torch.int16)[0, 0] = 0x7FC5
    assert same_bits(restore("w", compress("w", weight)), weight)
    assert restore("w", compress("w", weight)).view(torch.int16)[0, 0] == 0x7FC5
