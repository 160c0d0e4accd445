"""A model in a GGUF file: every tensor is its own, and llama.cpp says what transformers says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import steppe
from steppe.core.errors import SteppeError
from steppe.llm.export import export
from steppe.llm.gguf import FILE, checkpoint, read_back, write
from steppe.llm.skeleton import read_config

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'steppe[gguf]'")
transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CUT = {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16, "intermediate_size": 40}
MODELS = {
    "llama": ("Llama", {}),
    "tied, with biases": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "long context": ("Llama", {"rope_parameters": LLAMA3}),
    "mistral": ("Mistral", {"head_dim": 16}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "three heads of sixteen": ("Mistral", CUT),
    "qwen3, three heads": ("Qwen3", CUT),
}


def write_run(folder: Path, kind: str = "Llama", **options: Any) -> Any:
    """A random model of two blocks, half of its matrices' numbers zero."""
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes | options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).bfloat16()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj.weight" in name:
                weight.mul_(torch.rand_like(weight) > 0.5)
            elif "bias" in name:
                weight.normal_()
    model.save_pretrained(folder)
    # bfloat16() has rounded the rotation's frequencies, which no file holds
    return type(model).from_pretrained(folder)


@pytest.mark.parametrize("dtype", ["stored", "f32", "f16"])
def test_every_tensor_is_read_back(tmp_path: Path, dtype: str) -> None:
    write_run(tmp_path / "run")
    done = export(tmp_path / "run", "gguf", tmp_path / "out", dtype=dtype, tokenizer="none")
    assert done.record == json.loads((tmp_path / "out/export.json").read_text())
    assert done.record["tensors_compared"] == done.record["tensors"] == 21
    assert done.record["zeros"] == pytest.approx(0.5, abs=0.02)
    assert any("no sparse type" in line for line in done.lines)
    assert any("rounded to f16" in line for line in done.lines) == (dtype == "f16")
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "out" / FILE).tensors}
    assert stored["blk.1.attn_q.weight"].tensor_type.name == {"stored": "BF16"}.get(
        dtype, dtype.upper()
    )
    assert stored["blk.1.attn_norm.weight"].tensor_type.name == "F32"


def test_what_differs_is_noticed(tmp_path: Path) -> None:
    """The comparison that each export ends with can fail."""
    write_run(tmp_path / "run")
    export(tmp_path / "run", "gguf", tmp_path / "out", tokenizer="none")
    file, config = tmp_path / "out" / FILE, read_config(tmp_path / "run")
    source = checkpoint(tmp_path / "run")
    assert read_back(file, source, config) == 21
    tensor = next(t for t in gguf.GGUFReader(file).tensors if t.name == "blk.0.attn_k.weight")
    with file.open("r+b") as raw:
        raw.seek(int(tensor.data_offset))
        raw.write(b"\x01\x02")
    with pytest.raises(SteppeError, match=r"blk\.0\.attn_k\.weight"):
        read_back(file, source, config)


def test_a_compact_folder_is_a_run_too(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    export(tmp_path / "run", "compact", tmp_path / "small", verify="tensors")
    for run in ("run", "small"):
        export(tmp_path / run, "gguf", tmp_path / f"{run}-out", tokenizer="none")
    one, other = (
        {t.name: t.data.tobytes() for t in gguf.GGUFReader(tmp_path / f"{r}-out" / FILE).tensors}
        for r in ("run", "small")
    )
    assert one == other


@pytest.mark.parametrize("option", [{"dtype": "q8"}, {"tokenizer": "new"}, {"verify": "logits"}])
def test_unknown_options_are_refused(tmp_path: Path, option: dict[str, str]) -> None:
    write_run(tmp_path / "run")
    with pytest.raises(SteppeError, match=next(iter(option))):
        export(tmp_path / "run", "gguf", tmp_path / "out", **option)


def test_numbers_that_half_precision_does_not_hold_are_refused(tmp_path: Path) -> None:
    model = write_run(tmp_path / "run")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e6
    model.save_pretrained(tmp_path / "run")
    with pytest.raises(SteppeError, match=r"1\.mlp\.up_proj.*--dtype f32"):
        export(tmp_path / "run", "gguf", tmp_path / "out", dtype="f16", tokenizer="none")


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip(
        "llamacpp_peer", reason="llama_cpp is not installed", exc_type=ImportError
    )


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_gives_the_same_logits(tmp_path: Path, peer: Any, name: str) -> None:
    kind, options = MODELS[name]
    model = write_run(tmp_path / "run", kind, **options).float().eval()
    write(tmp_path / FILE, checkpoint(tmp_path / "run"), model.config, dtype=torch.float32)
    tokens = torch.randint(64, (1, 24))
    with torch.no_grad():
        expected = model(tokens).logits[0]
    with peer.Model(tmp_path / FILE, threads=1, context=64, cache="f32") as own:
        logits = torch.tensor(own.logits(tokens[0].tolist()))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def test_a_trained_model_writes_the_same_text(tmp_path: Path, peer: Any, shared: Path) -> None:
    folder = shared / "models" / "tiny-llama"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    export(folder, "gguf", tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = words("Once upon a time there was a little girl who").input_ids
    answer = model.generate(
        torch.tensor([prompt]), min_new_tokens=33, max_new_tokens=33, do_sample=False
    )
    with peer.Model(tmp_path / "out" / FILE, threads=1, context=64) as own:
        assert own.tokenize("Once upon a time there was a little girl who") == prompt
        assert own.greedy(prompt, 32)[2] == answer[0, len(prompt) :].tolist()


SLIM = {"sparsity": 0.375}
WAYS: dict[str, tuple[steppe.Method, dict[str, Any]]] = {
    "neurons and heads": (steppe.methods.slim(**SLIM), {"family": "mistral"}),
    "blocks": (steppe.methods.depth(sparsity=0.33), {}),
    "blocks, then neurons": (steppe.methods.slim(**SLIM, structure="neurons"), {}),
}


def cut(folder: Path, out: Path, way: str, text: Path) -> Path:
    """A trained model from which something is gone."""
    method, options = WAYS[way]
    options = options | {"samples": 16, "window": 64, "measure": 0}
    if way == "blocks, then neurons":
        folder = cut(folder, out.with_name("first"), "blocks", text)
    steppe.prune(folder, method, text, out, **options)
    return out


@pytest.fixture(scope="module")
def trained(shared: Path) -> tuple[Path, Path]:
    """A trained model, and a text that it is calibrated on."""
    model, text = shared / "models/tiny-llama", shared / "data/wikitext2/validation.txt"
    for path in (model, text):
        if not path.exists():
            pytest.skip(f"no {path}")
    return model, text


@pytest.mark.parametrize("way", WAYS)
def test_what_is_left_of_a_trained_model_writes_the_same_text(
    tmp_path: Path, trained: tuple[Path, Path], way: str
) -> None:
    """The header has the shapes; where llama_cpp is there, the text is that of transformers."""
    folder, text = trained
    run = cut(folder, tmp_path / "run", way, text)
    export(run, "gguf", tmp_path / "out", dtype="f32")
    config = read_config(run)
    fields = gguf.GGUFReader(tmp_path / "out" / FILE).fields
    said = {
        name: int(fields[f"llama.{name}"].contents())
        for name in ("block_count", "attention.head_count", "attention.head_count_kv")
    }
    assert list(said.values()) == [
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
    ]
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        assert int(fields[f"llama.{name}"].contents()) == 32, "a head keeps its width"
    assert int(fields["llama.feed_forward_length"].contents()) == config.intermediate_size
    assert fields["tokenizer.ggml.model"].contents() in ("gpt2", "llama")
    peer = pytest.importorskip(
        "llamacpp_peer", reason="llama_cpp is not installed", exc_type=ImportError
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(run).float().eval()
    words = transformers.AutoTokenizer.from_pretrained(run)
    with peer.Model(tmp_path / "out" / FILE, threads=1, context=96, cache="f32") as own:
        for start in ("Once upon a time there was a little girl who", "The history of the city"):
            prompt = words(start).input_ids
            answer = model.generate(
                torch.tensor([prompt]), min_new_tokens=33, max_new_tokens=33, do_sample=False
            )
            assert own.tokenize(start) == prompt
            assert own.greedy(prompt, 32)[2] == answer[0, len(prompt) :].tolist()


def test_the_peer_measures_in_a_process_of_its_own(tmp_path: Path, peer: Any) -> None:
    write_run(tmp_path / "run")
    options = ["--model", tmp_path / "run", "--work", tmp_path / "work", "--dtype", "f16"]
    numbers = ["--threads", 1, "--prompt", 8, "--tokens", 4, "--repeats", 2]
    done = subprocess.run(
        [sys.executable, peer.__file__, *map(str, [*options, *numbers])],
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(done.stdout.splitlines()[-1])
    assert len(record["token_ms"]) == len(record["prompt_ms"]) == 2
    assert len(record["text"]) == 5
    assert record["tokens_per_second"] > 0
    assert record["file_bytes"] == (tmp_path / "work/run-f16.gguf").stat().st_size
    assert 0 < record["resident_bytes"] < 2**30


def test_blocks_of_different_sizes_run_there(tmp_path: Path, peer: Any) -> None:
    """The second block has half of the heads and two thirds of the neurons."""
    model = write_run(tmp_path / "run").float().eval()
    second = model.model.layers[1]
    attention, mlp = second.self_attn, second.mlp
    rows = slice(0, 32)  # two of four heads, and one of two of keys
    with torch.no_grad():
        attention.q_proj.weight = torch.nn.Parameter(attention.q_proj.weight[rows])
        attention.k_proj.weight = torch.nn.Parameter(attention.k_proj.weight[:16])
        attention.v_proj.weight = torch.nn.Parameter(attention.v_proj.weight[:16])
        attention.o_proj.weight = torch.nn.Parameter(attention.o_proj.weight[:, rows])
        mlp.gate_proj.weight = torch.nn.Parameter(mlp.gate_proj.weight[:64])
        mlp.up_proj.weight = torch.nn.Parameter(mlp.up_proj.weight[:64])
        mlp.down_proj.weight = torch.nn.Parameter(mlp.down_proj.weight[:, :64])
    model.save_pretrained(tmp_path / "run")
    done = write(tmp_path / FILE, checkpoint(tmp_path / "run"), model.config)
    assert done.architecture == "deci"
    tokens = torch.randint(64, (1, 24))
    with torch.no_grad():
        expected = model(tokens).logits[0]
    with peer.Model(tmp_path / FILE, threads=1, context=64, cache="f32") as own:
        logits = torch.tensor(own.logits(tokens[0].tolist()))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
