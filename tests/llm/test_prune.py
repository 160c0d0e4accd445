"""A pretrained model, pruned: the public function, and the real small model."""

import json

import pytest
import torch
from safetensors.torch import load_file

import steppe
from steppe import SteppeError, methods
from steppe.core.layer_problem import LayerProblem
from steppe.core.mask import unpack
from steppe.core.protocols import LayerSolver
from steppe.core.prunable import prunable
from steppe.engine.blockwise.calibration_collector import CalibrationCollector
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.engine.blockwise.input_recorder import InputRecorder
from steppe.engine.blockwise.solve import chooser
from steppe.llm.calibration_windows import windows
from steppe.llm.load import load, tokenizer_of
from steppe.llm.model import StreamedModel
from steppe.record import SCHEMA_VERSION, checked


def inside(model):
    """Name -> weight of the decoder blocks' prunable layers."""
    return {n: w for n, w in prunable(model)[1].items() if ".layers." in n}


@pytest.fixture
def tokens():
    return torch.randint(0, 26, (6, 12), generator=torch.Generator().manual_seed(0))


def test_prune_leaves_a_model_a_record_and_masks(language_model, tokens, tmp_path):
    out = tmp_path / "out"
    rows = []
    record = steppe.prune(
        language_model, methods.sparsegpt(sparsity=0.5), tokens, out, report=rows.append
    )
    model, _ = load(str(out))
    weights = inside(model)
    assert sum(int((w == 0).sum()) for w in weights.values()) == round(
        0.5 * sum(w.numel() for w in weights.values())
    )
    assert record == json.loads((out / "record.json").read_text())
    assert checked(record, "out")["schema_version"] == SCHEMA_VERSION
    assert record["method_display"] == "SparseGPT"
    assert record["blocks"] == rows
    assert {x["name"] for row in rows for x in row["layers"]} == set(weights)
    masks = {}
    for path in out.glob("masks-*.safetensors"):
        masks |= unpack(load_file(path))
    assert all(torch.equal(masks[n], w != 0) for n, w in weights.items())
    assert not list((out / "checkpoints").glob("*.bin"))


def test_a_training_method_takes_its_language_settings(language_model, tokens, tmp_path):
    reconstruction = ReconstructionConfig(epochs=1, warmup_epochs=0, batch_size=3)
    plain = methods.safe_plus(sparsity=0.5, rho=0.01, start=None)
    record = steppe.prune(
        language_model, plain, tokens, tmp_path / "out", reconstruction=reconstruction
    )
    assert record["recipe"]["method"] == plain.for_language().to_dict()
    assert record["recipe"]["method"]["perturb"]["rho"] == 0.01
    assert record["recipe"]["method"]["coupling"]["curve"] == "constant"
    assert record["sparsity_reached"] == pytest.approx(0.5, abs=1e-3)


FORMS = {n: methods.METHODS[n].example() for n in methods.METHODS}
LANGUAGE = [  # experts are in no dense model: tests/llm/structured/choices/test_experts.py
    n for n, m in FORMS.items() if m.has_language_form and m.structure.removes != "experts"
]


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_copy_prunes_as_the_method_itself(name, language_model, tokens, tmp_path):
    reconstruction = ReconstructionConfig(epochs=1, warmup_epochs=0, batch_size=3)
    method = methods.make(name, sparsity=0.5)
    copy = steppe.Method.from_yaml(method.to_yaml())
    records = [
        steppe.prune(
            language_model, m, tokens, tmp_path / str(i), reconstruction=reconstruction, measure=0
        )
        for i, m in enumerate((method, copy))
    ]
    assert records[0]["recipe"] == records[1]["recipe"]
    weights = [load(str(tmp_path / str(i)))[0].state_dict() for i in range(2)]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


def test_a_part_may_be_exchanged_before_pruning(language_model, tokens, tmp_path):
    reconstruction = ReconstructionConfig(epochs=1, warmup_epochs=0, batch_size=3)
    flatless = methods.safe(sparsity=0.5, start=None).replace(perturb="none")
    record = steppe.prune(
        language_model, flatless, tokens, tmp_path / "a", reconstruction=reconstruction
    )
    assert record["recipe"]["method"]["perturb"] == {"name": "none"}
    # SAFE without its perturbation is ADMM
    steppe.prune(
        language_model,
        methods.admm(sparsity=0.5),
        tokens,
        tmp_path / "b",
        reconstruction=reconstruction,
    )
    mine, admm = (load(str(tmp_path / out))[0].state_dict() for out in "ab")
    assert all(torch.equal(mine[n], admm[n]) for n in admm)


def test_nothing_is_pruned_at_sparsity_zero(language_model, tokens, tmp_path):
    for method in (methods.alps(sparsity=0.0), methods.wanda(sparsity=0.0)):
        steppe.prune(language_model, method, tokens, tmp_path / method.name)
        before, after = load(str(language_model))[0], load(str(tmp_path / method.name))[0]
        for name, weight in before.state_dict().items():
            assert torch.equal(weight, after.state_dict()[name]), name


def test_zeros_of_all_count_those_that_no_pattern_names(language_model, tokens, tmp_path):
    steppe.prune(language_model, methods.magnitude(sparsity=0.7), None, tmp_path / "sparse")
    only = {"include": ("*q_proj*",)}
    method = methods.magnitude(sparsity=0.8)
    record = steppe.prune(tmp_path / "sparse", method, None, tmp_path / "out", **only)
    nonzero, parameters = (record["sparse"][key] for key in ("nonzero", "parameters"))
    assert record["sparsity_of_all"] == pytest.approx(1 - nonzero / parameters)


def test_a_method_without_language_settings_is_refused(language_model, tokens, tmp_path):
    with pytest.raises(SteppeError, match=r"gmp with objective task.*methods that have one"):
        steppe.prune(language_model, methods.gmp(sparsity=0.5), tokens, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_method_or_no_model_is_said(language_model, tmp_path):
    with pytest.raises(SteppeError, match=r"str where a Method belongs.*methods\.wanda"):
        steppe.prune(language_model, "wanda", None, tmp_path / "out")
    with pytest.raises(SteppeError, match=r"got Linear.*save_pretrained"):
        steppe.prune(torch.nn.Linear(2, 2), methods.wanda(sparsity=0.5), None, tmp_path / "out")


def test_layer_errors_grow_with_the_sparsity(language_model, tokens, tmp_path):
    def error(sparsity):
        method = methods.wanda(sparsity=sparsity)
        record = steppe.prune(language_model, method, tokens, tmp_path / f"{sparsity}")
        return sum(x["output_error"] for x in record["blocks"][0]["layers"])

    found = [error(s) for s in (0.2, 0.5, 0.8)]
    assert found == sorted(found)


@pytest.fixture(scope="module")
def grams(shared):
    """(layer, weight, gram) of every prunable layer of the real model."""
    folder = shared / "models" / "tiny-llama"
    text = shared / "data" / "wikitext2" / "validation.txt"
    model = StreamedModel(str(folder))
    found = windows(text, tokenizer_of(folder), samples=24, window=128, seed=0)
    hidden, held = model.embed(found.tokens), []
    layers = {x.name: x for x in model.layers()}
    for index in range(len(model)):
        block = model.load(index)
        prefix = f"{model.prefix}.{index}."
        weights = {prefix + n: p for n, p in block.named_parameters() if prefix + n in layers}
        collector = CalibrationCollector(
            {n: layers[n] for n in weights}, ["gram"], torch.device("cpu")
        )
        with torch.no_grad(), InputRecorder(weights, collector.see):
            hidden = model.call(index, hidden)
        collector.finish()
        held += [(layers[n], w.clone(), collector.of(n)["gram"]) for n, w in weights.items()]
        model.free(index)
    return held


@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
def test_alps_is_at_least_as_good_as_sparsegpt_on_every_layer(grams, structure):
    error = {}
    for name in ("sparsegpt", "alps"):
        method = methods.make(name, sparsity=0.5, structure=structure)
        for layer, weight, gram in grams:
            problem = LayerProblem(
                name=layer.name,
                weight=weight,
                statistics={"gram": gram},
                prune=weight.numel() // 2,
                choose=chooser(method, layer),
                score=method.score,
                multiple=method.structure.columns,
            )
            moved = method.coupling.solve(problem)[0] - weight
            error[name, layer.name] = float(((moved @ gram) * moved).sum())
    worse = [x.name for x, _, _ in grams if error["alps", x.name] > error["sparsegpt", x.name]]
    assert len(grams) == 42
    assert not worse
    assert LayerSolver.registry["layer_admm"].needs == ("gram",)


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_a_sparser_model_than_asked_for(name, language_model, tokens, tmp_path):
    steppe.prune(language_model, methods.magnitude(sparsity=0.7), None, tmp_path / "a")
    method = getattr(methods, name)(sparsity=0.5)
    record = steppe.prune(tmp_path / "a", method, tokens, tmp_path / "b")
    before, after = (load(str(tmp_path / x))[0] for x in "ab")
    for key, model in (("dense", before), ("sparse", after)):
        assert record[key]["nonzero"] == sum(int((p != 0).sum()) for p in model.parameters())
        assert record[key]["parameters"] == sum(p.numel() for p in model.parameters())
    assert record["sparsity_asked"] == 0.5
    for key, model in (("sparsity_before", before), ("sparsity_reached", after)):
        weights = inside(model).values()
        zeros = sum(int((w == 0).sum()) for w in weights)
        assert record[key] == zeros / sum(w.numel() for w in weights)
    assert record["sparsity_reached"] >= record["sparsity_before"] == pytest.approx(0.7, abs=1e-3)
    keeper = steppe.MaskKeeper(after, masks=tmp_path / "b")
    optimizer = keeper.wrap(torch.optim.AdamW(after.parameters(), lr=1e-2))
    share = keeper.sparsity()
    after.train()(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    assert keeper.sparsity() == share == pytest.approx(record["sparsity_reached"])


@pytest.mark.parametrize(
    ("broken", "step"),
    [
        ("streamed_perplexity", "the perplexity of the pruned model"),
        ("gain_of", "the gain"),
    ],
)
def test_what_is_measured_of_the_result_cannot_cost_it(
    broken, step, language_model, tokens, word_text, tmp_path, monkeypatch, capsys
):
    def prune(out):
        asked = {"evaluate": [word_text], "evaluate_window": 16, "remember": False}
        return steppe.prune(language_model, methods.magnitude(sparsity=0.5), tokens, out, **asked)

    right = prune(tmp_path / "right")
    real, calls = getattr(steppe.llm.pruning_run, broken), []

    def fails(*given, **options):
        calls.append(given)
        if broken == "streamed_perplexity" and len(calls) == 1:
            return real(*given, **options)  # of the dense model
        raise ZeroDivisionError("float division by zero")

    with monkeypatch.context() as patch:
        patch.setattr(f"steppe.llm.pruning_run.{broken}", fails)
        record = prune(tmp_path / "out")
    said = capsys.readouterr().err
    assert f"steppe: {step}: not computed, an internal error (ZeroDivisionError" in said
    assert record["not_computed"] == [step]
    assert record == json.loads((tmp_path / "out" / "record.json").read_text())
    load(str(tmp_path / "out"))
    again = prune(tmp_path / "out")
    assert "not_computed" not in again
    assert again["sparse"]["perplexity"] == right["sparse"]["perplexity"]
    assert again["gain"] == right["gain"]


def test_the_model_is_never_written_over(language_model):
    with pytest.raises(SteppeError, match="as model and as --out"):
        steppe.prune(language_model, steppe.methods.magnitude(sparsity=0.5), None, language_model)
