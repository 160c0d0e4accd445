"""steppe.llm.plan: what a run will make and take, found without leaving anything behind."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from steppe import methods
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.llm.checkpoint import write_index
from steppe.llm.memory import estimate
from steppe.llm.plan import lines, plan
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune import prune
from steppe.llm.prune_config import PruneConfig


def ask(model, method, out, tokens, **options):
    defaults = {
        "device": "cpu",
        "precision": "float32",
        "micro_batch": 2,
        "measure": 2,
        "reconstruction": ReconstructionConfig(epochs=2, warmup_epochs=0, batch_size=2),
    }
    config = PruneConfig.of(calibration=tokens, out=out, **(defaults | options))
    return PreparedPruning(model, method, config)


@pytest.fixture
def tokens():
    return torch.randint(0, 26, (6, 16))


@pytest.mark.parametrize(
    "method",
    [
        methods.magnitude(sparsity=0.5),
        methods.wanda(sparsity=0.3),
        methods.sparsegpt(structure="2:4"),
        methods.safe(sparsity=0.5),
        methods.wanda(sparsity=0.5, budget="owl"),
    ],
    ids=lambda m: f"{m.name}-{m.budget.name}",
)
def test_a_plan_tells_the_zeros_of_the_run_and_leaves_nothing(
    method, language_model, tokens, tmp_path
):
    prepared = ask(language_model, method, tmp_path / "runs" / "out", tokens)
    before = sorted(tmp_path.rglob("*"))
    random = torch.get_rng_state()
    found = plan(prepared)
    assert sorted(tmp_path.rglob("*")) == before
    assert torch.equal(torch.get_rng_state(), random)
    reconstruction = ReconstructionConfig(epochs=1, warmup_epochs=0, batch_size=6)
    record = prune(language_model, method, tokens, tmp_path / "out", reconstruction=reconstruction)
    made = record["sparse"]["parameters"] - record["sparse"]["nonzero"]
    assert found["zeros"] == made
    assert found["layers"] == 14
    assert found["blocks"] == 2
    if not method.profiled_by:
        assert sum(found["zeros_by_kind"].values()) == made
        assert len(found["zeros_by_kind"]) == 7
    seconds = found["seconds"]
    assert seconds["prune"] > 0
    assert seconds["all"] == pytest.approx(sum(v for k, v in seconds.items() if k != "all"))
    assert "profile" in seconds if method.profiled_by else "profile" not in seconds
    said = "\n".join(lines(found, prepared.out))
    assert f"{made:,} of" in said
    assert "memory" in said
    assert "disk" in said


def test_what_a_search_over_the_model_holds_is_counted(language_model, tokens, tmp_path):
    wanda = methods.wanda(sparsity=0.5)
    search = wanda.replace(budget={"name": "evopress", "sparsity": 0.5})
    prepared = ask(language_model, search, tmp_path / "out", tokens)
    found = estimate(prepared)
    weights = sum(x.numel for x in prepared.model.layers())
    assert found["disk"]["layers at all levels"] == 9 * 4 * weights
    # three candidates on 65,536 tokens, before and after a block
    assert found["host"]["hidden states of mixtures"] > 2 * 2 * 65536 * 4 * 12
    assert (
        "layers at all levels"
        not in estimate(ask(language_model, wanda, tmp_path / "out", tokens))["disk"]
    )
    assert plan(prepared)["zeros_by_kind"] == {}


def test_times_are_for_all_steps_and_windows(language_model, tokens, tmp_path, monkeypatch):
    taken = {"load": 1.0, "calibrate": 2.0, "prune": 3.0, "propagate": 8.0, "write": 0.5}
    row = {"seconds": taken, "layers": [{"shape": [2, 2], "sparsity_before": 0.25}]}
    monkeypatch.setattr("steppe.llm.plan.pruned_block", lambda prepared: row)
    prepared = ask(language_model, methods.safe(sparsity=0.5), tmp_path / "out", tokens)
    seconds = plan(prepared)["seconds"]
    # 2 blocks; 6 windows where the trial had 2; 3 steps in each of 2 epochs where it had 3
    assert seconds["load"] == 2.0
    assert seconds["calibrate"] == 12.0
    assert seconds["prune"] == 12.0
    # the trial passed 2 windows and measured errors, worth 3 passes each, on 2
    assert seconds["propagate"] == 1.0 * (6 * 2 + 3 * 2 * 2)


def test_a_plan_with_text_counts_the_evaluation(language_model, word_text, tmp_path):
    prepared = ask(
        language_model,
        methods.wanda(sparsity=0.5),
        tmp_path / "out",
        str(word_text),
        window=16,
        evaluate=[str(word_text)],
    )
    found = plan(prepared)
    assert found["seconds"]["evaluate"] > 0
    assert found["disk_bytes"]["evaluation"] == 4 * 12 * 31 * 16
    assert not (tmp_path / "out").exists()
    assert "seconds" not in plan(prepared, dry_run=False)


def test_zeros_and_layers_that_are_there_are_said(language_model, tokens, tmp_path):
    half = tmp_path / "half"
    prune(language_model, methods.magnitude(sparsity=0.5), None, half)
    dense = plan(ask(language_model, methods.wanda(sparsity=0.3), tmp_path / "out", tokens))
    assert dense["sparsity_before"] == 0
    assert dense["not_in_the_model"] == []
    assert not any("already" in line for line in lines(dense, tmp_path))
    last = sorted(half.glob("model-*.safetensors"))[-1]
    rest = load_file(last)
    save_file(rest | {"model.layers.2.mlp.up_proj.weight": torch.ones(2)}, last, {"format": "pt"})
    write_index(half, 3)
    planned = plan(ask(half, methods.wanda(sparsity=0.3), tmp_path / "out", tokens))
    assert planned["sparsity_before"] == pytest.approx(0.5, abs=0.01)
    said = lines(planned, tmp_path)
    assert any("are zero already" in line for line in said)
    assert any("copied as it is, dense: model.layers.2" in line for line in said)


def test_a_plan_tries_whole_units_as_the_run_prunes_them(language_model, tokens, tmp_path):
    method = methods.slim(sparsity=0.5, structure="neurons")
    found = plan(ask(language_model, method, tmp_path / "out", tokens))
    assert found["seconds"]["prune"] > 0
    assert found["shape"]
    assert not (tmp_path / "out").exists()


def test_a_plan_tries_a_block_with_the_biases_that_it_will_have(language_model, tokens, tmp_path):
    method = methods.flap(sparsity=0.5, structure="neurons")
    found = plan(ask(language_model, method, tmp_path / "out", tokens))
    assert found["seconds"]["prune"] > 0
    assert list(tmp_path.iterdir()) == []
