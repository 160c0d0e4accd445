"""Memory: measured in processes of their own, and refused where there is too little."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from steppe import SteppeError, methods
from steppe.llm import memory
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune import prune, run
from steppe.llm.prune_config import PruneConfig

HIDDEN, INNER = 256, 1024
BLOCK = 4 * (4 * HIDDEN**2 + 3 * HIDDEN * INNER)  # bytes in float32


def llama(folder, blocks, hidden=HIDDEN, inner=INNER, vocabulary=500):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        max_position_embeddings=256,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="40MB")
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.safetensors"
    save_file({"tokens": torch.randint(0, 500, (4, 64))}, path)
    return path


def measured(model, method, tokens, out, *live):
    """What a pruning process's memory and disk grew by, and what was estimated."""
    if not Path("/proc/self/status").exists():
        pytest.skip("private memory is read from Linux' /proc")
    command = [
        sys.executable,
        Path(__file__).with_name("peak.py"),
        model,
        method,
        tokens,
        out,
        *live,
    ]
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_memory_does_not_grow_with_the_number_of_blocks(tokens, tmp_path):
    few, many = (
        measured(llama(tmp_path / f"{n}", n), "sparsegpt", tokens, tmp_path / f"out-{n}", "live")
        for n in (4, 16)
    )
    assert abs(many["grown"] - few["grown"]) < BLOCK
    assert many["estimate"]["host"] == few["estimate"]["host"]


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_estimates_are_near_what_a_run_takes(method, tokens, tmp_path):
    # 43 million parameters
    model = llama(tmp_path / "model", 2, 768, 3072, 16000)
    found = measured(model, method, tokens, tmp_path / "out")
    assert found["grown"] / 2 < found["estimate"]["host"] < found["grown"] * 2
    assert found["estimate"]["disk"] == pytest.approx(found["disk"], rel=0.01)


def test_what_cannot_fit_is_refused_before_anything_is_written(
    language_model, tmp_path, monkeypatch
):
    plenty = {"host": 10**15, "disk": 10**15}
    tokens = torch.randint(0, 26, (4, 16))

    def refusal(method, **there):
        monkeypatch.setattr(memory, "available", lambda out, device: plenty | there)
        with pytest.raises(SteppeError) as refused:
            prune(language_model, method, tokens, tmp_path / "out", device="cpu")
        assert not (tmp_path / "out").exists()
        return str(refused.value)

    said = refusal(methods.sparsegpt(sparsity=0.5), host=10**6)
    assert "must fit in memory" in said
    assert "--micro-batch 2" in said
    assert "without Hessians" in said
    assert "0.00 GiB available" in said
    assert "Hessians" not in refusal(methods.wanda(sparsity=0.5), host=10**6)
    said = refusal(methods.safe(sparsity=0.5), disk=10**3)
    assert "--out on another disk" in said


@pytest.fixture
def reads(monkeypatch):
    """Blocks whose weights were read."""
    seen, plain = [], StreamedModel.read

    def read(model, index, pruned=None):
        seen.append(index)
        plain(model, index, pruned)

    monkeypatch.setattr(StreamedModel, "read", read)
    return seen


def test_the_whole_model_is_refused_before_it_is_loaded(
    language_model, reads, tmp_path, monkeypatch
):
    there = {"host": 10**6, "disk": 10**15}
    monkeypatch.setattr(memory, "available", lambda out, device: there)
    options = {"device": "cpu", "streamed": "never"}
    with pytest.raises(SteppeError, match="must fit in memory"):
        prune(language_model, methods.magnitude(sparsity=0.5), None, tmp_path / "out", **options)
    monkeypatch.setattr(memory, "_BUFFERS", 0)
    there["host"] = 10**4
    with pytest.raises(SteppeError, match=r"the whole model .*Way out: --streamed auto"):
        prune(language_model, methods.magnitude(sparsity=0.5), None, tmp_path / "out", **options)
    assert reads == []


@pytest.mark.parametrize("streamed", ["never", "auto"])
def test_what_decide_has_loaded_is_not_asked_for_again(
    streamed, language_model, tmp_path, monkeypatch
):
    tokens = torch.randint(0, 26, (4, 16))
    config = PruneConfig.of(calibration=tokens, out=tmp_path / "out", streamed=streamed)
    prepared = PreparedPruning(language_model, methods.wanda(sparsity=0.5), config)
    whole = streamed == "never"
    needed = sum(memory.estimate(prepared, whole=whole)["host"].values())

    def available(out, device):
        weights = prepared.model.model.parameters()
        loaded = 4 * sum(p.numel() for p in weights if not p.is_meta)
        return {"host": needed - loaded, "disk": 10**15}

    monkeypatch.setattr(memory, "available", available)
    assert run(prepared)["walk"]["streamed"] is not whole


def test_wrong_patterns_and_structures_are_refused_before_weights_are_read(
    language_model, reads, tmp_path
):
    tokens = torch.randint(0, 26, (4, 16))
    for method, include in (
        (methods.wanda(sparsity=0.5), ("*nothing*",)),
        (methods.wanda(structure="7:64"), ()),
    ):
        with pytest.raises(SteppeError):
            prune(language_model, method, tokens, tmp_path / "out", include=include)
        assert reads == []


def test_what_an_interrupted_run_has_written_need_not_be_free(
    language_model, tmp_path, monkeypatch
):
    from steppe.cli.job import job

    tokens = torch.randint(0, 26, (4, 16))
    path = tmp_path / "tokens.safetensors"
    save_file({"tokens": tokens}, path)
    asked = job(str(language_model), "wanda", 0.5, calibration=str(path), out=tmp_path / "out")
    needed = memory.estimate(asked)
    there = {"host": 10**15, "disk": sum(needed["disk"].values()) - 4096}
    monkeypatch.setattr(memory, "available", lambda out, device: there)
    with pytest.raises(SteppeError, match="the disk"):
        memory.check(asked, needed)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model-00001-of-00003.safetensors").write_bytes(b"x" * 8192)
    memory.check(asked, needed)


def test_a_gpu_holds_what_computes(language_model, tmp_path, monkeypatch):
    from steppe.cli.job import job

    asked = job(str(language_model), "magnitude", 0.5, out=tmp_path / "out", device="cpu")
    on_cpu = memory.estimate(asked)
    monkeypatch.setattr(asked, "device", "cuda")
    needed = memory.estimate(asked)
    assert on_cpu["device"] == {}
    assert needed["device"] == on_cpu["host"]
    there = {"host": 10**15, "disk": 10**15, "device": 10}
    monkeypatch.setattr(memory, "available", lambda out, device: there)
    with pytest.raises(SteppeError, match="--device cpu"):
        memory.check(asked, needed)


def test_what_is_free_is_the_least_that_anybody_grants(tmp_path):
    found = memory.available(tmp_path / "not" / "there", "cpu")
    assert set(found) == {"host", "disk"}
    assert all(size > 0 for size in found.values())
    assert memory.existing(tmp_path / "not" / "there") == tmp_path
    command = "; ".join(
        [
            "import resource",
            "from pathlib import Path",
            "from steppe.llm.memory import available",
            "before = available(Path('.'), 'cpu')['host']",
            "resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9))",
            "print(before, available(Path('.'), 'cpu')['host'])",
        ]
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert after <= min(before, 10**9)
