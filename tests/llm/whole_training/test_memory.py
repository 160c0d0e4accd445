"""What a whole training holds, from shapes: bytes of a weight, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import steppe
from steppe import SteppeError
from steppe.llm.model import StreamedModel
from steppe.llm.whole_training import memory
from steppe.llm.whole_training.memory import Setting, check, lines, needed, peak

ADAM = {"batch": 8, "window": 16, "optimizer": "adam", "options": {}}


def test_each_part_follows_from_the_model(language_model):
    source = StreamedModel(str(language_model))
    n, vocabulary = source.parameters(), source.vocabulary
    plain = needed(source, steppe.methods.gmp(sparsity=0.5, budget="uniform"), Setting(**ADAM))
    assert plain["weights"] == plain["gradients"] == 4 * n
    assert plain["the optimizer's state"] == 8 * n
    assert plain["the coupling's state"] == sum(x.numel for x in source.layers())
    assert plain["logits"] == 8 * 8 * 16 * vocabulary
    safe = needed(source, steppe.methods.safe(sparsity=0.5), Setting(**ADAM))
    assert safe["the perturbation"] == 12 * n
    functional = steppe.methods.safe(sparsity=0.5).replace(perturb="functional_sam")
    assert needed(source, functional, Setting(**ADAM))["logits"] == 12 * 8 * 16 * vocabulary
    less = needed(source, steppe.methods.safe(sparsity=0.5), Setting(**ADAM, checkpointing=True))
    assert less["activations"] < safe["activations"]
    split = needed(source, steppe.methods.safe(sparsity=0.5), Setting(**ADAM, processes=2))
    assert split["weights"] == 4 * (n // 2)
    assert "the teacher" in needed(
        source, steppe.methods.gmp(sparsity=0.5), Setting(**ADAM, teacher=True)
    )
    assert peak(plain, Setting(**ADAM)) == sum(plain.values()) - min(
        plain["gradients"], plain["activations"] + plain["logits"]
    )
    assert peak(plain, Setting(**ADAM, accumulate=2)) == sum(plain.values())
    held = needed(source, steppe.methods.gmp(sparsity=0.5), Setting(**ADAM, held=99))
    assert held["Python and libraries"] == 99
    said = lines(plain, 2**30, Setting(**ADAM), {2: 5 * 2**30})
    assert len(said) == 3 + len(plain)
    assert "--shard: 2: 5.00 GiB" in said[-1]


def test_what_does_not_fit_is_one_line_whose_ways_out_fit(monkeypatch):
    """With a plan in which each knob does what it does in a real one."""

    def planned(setting):
        passes = 200 * setting.batch // (1 + setting.checkpointing)
        state = 100 if setting.optimizer == "adam8bit" else 400
        each = {"weights": 400, "gradients": 400, "the optimizer's state": state}
        parts = {key: size // setting.processes for key, size in each.items()}
        return parts | {"activations": passes, "logits": 0}

    monkeypatch.setattr(memory, "installed", lambda: True)
    setting = Setting(**ADAM)
    check(planned, 2400, setting, 1)
    cases = [
        (2000, "--batch-size 4 --accumulate 2, or --batch-size 2 --accumulate 4, or a machine"),
        (1250, "--optimizer adam8bit --batch-size 1 --accumulate 8"),
        (1000, "--checkpointing --optimizer adam8bit --batch-size 1 --accumulate 8"),
        (800, "--shard, with 4 processes"),
        (10, "way out: a machine with more"),
    ]
    for there, way in cases:
        with pytest.raises(SteppeError, match=f"(?i)must fit in memory.*({way})") as refused:
            check(planned, there, setting, 1)
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(memory, "installed", lambda: False)
    with pytest.raises(SteppeError, match=r"Way out: --shard, with 4 processes"):
        check(planned, 1000, setting, 1)
    with pytest.raises(SteppeError, match="--batch-size 8 --accumulate 2"):
        check(planned, 2000, setting, 2)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_what_is_planned_is_near_what_is_measured(tmp_path):
    """Of two sizes, with and without checkpointing, a perturbation, 16 bits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    save_file({"tokens": torch.randint(0, 4000, (8, 128))}, tmp_path / "ids.safetensors")
    shapes = {"small": (256, 672, 6, 4096, True), "larger": (640, 1792, 4, 6000, False)}
    for name, (hidden, inner, blocks, words, tied) in shapes.items():
        config = LlamaConfig(
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=blocks,
            num_attention_heads=8,
            vocab_size=words,
            tie_word_embeddings=tied,
        )
        LlamaForCausalLM(config).save_pretrained(tmp_path / name)
    elsa = {"name": "elsa", "sparsity": 0.9, "state_dtype": "bfloat16"}
    safe = {"name": "safe", "sparsity": 0.5, "rho": 0.05}
    cases = [("small", elsa, False), ("larger", elsa, True), ("larger", safe, False)]
    paths = []
    for model, method, less in cases:
        train = {"tokens": 1024, "batch_size": 4, "parts": 1, "precision": "float32"}
        plain = {
            "task": "causal_lm",
            "model": str(tmp_path / model),
            "data": {"text": str(tmp_path / "ids.safetensors"), "window": 128},
            "method": method,
            "train": train | {"checkpointing": less},
            "device": "cpu",
        }
        paths.append(tmp_path / f"{len(paths)}.json")
        paths[-1].write_text(json.dumps(plain))
    command = [sys.executable, Path(__file__).with_name("peak.py"), *paths]
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for case, found in zip(cases, json.loads(done.stdout), strict=True):
        assert found["planned"] == pytest.approx(found["measured"], rel=0.25), case
