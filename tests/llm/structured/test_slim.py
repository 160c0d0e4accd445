"""Models from which something is really gone, whatever it is: refusals, stops, records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from language_models import reload, windows
from mixture_models import build
from steppe import SteppeError, methods
from steppe.llm import memory, prepare
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune import prune
from steppe.llm.prune_config import PruneConfig
from steppe.llm.structured import block_trials, slim
from steppe.llm.structured.choices.units import BIASED, MASKED
from steppe.method import Method

METHODS: dict[str, Callable[[], Method]] = {
    "neurons": lambda: methods.slim(sparsity=0.25, structure="neurons"),
    "heads": lambda: methods.slim(sparsity=0.5, structure="heads"),
    "flap": lambda: methods.flap(sparsity=0.5),
    "layers": lambda: methods.depth(sparsity=0.5),
    "influence": lambda: methods.depth(sparsity=0.5, budget="block_influence"),
    "experts": lambda: methods.reap(sparsity=0.25),
}
OPTIONS: dict[str, Any] = {"window": 16, "samples": 4, "device": "cpu"}


def in_blocks(model: Any) -> int:
    return sum(p.numel() for p in model.model.layers.parameters())


@pytest.fixture
def dense(language_model: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A folder that may be written to, of a model that the structure of a test is of."""

    def folder(name: str) -> Path:
        path = tmp_path / "dense"
        if name == "experts":
            build("mixtral").save_pretrained(path)
        else:
            shutil.copytree(language_model, path)
        return path

    return folder


def changed(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Other weights in a folder of one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("tensor", ["model.layers.1.self_attn.v_proj.weight", "lm_head.weight"])
@pytest.mark.parametrize("name", METHODS)
def test_a_weight_that_is_no_number_leaves_no_folder_begun(
    name: str, tensor: str, dense: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = dense(name)
    changed(folder, lambda tensors: tensors[tensor].view(-1)[:1].fill_(float("nan")))
    with pytest.raises(SteppeError) as refused:
        prune(folder, METHODS[name](), windows(6, 16, 26), tmp_path / "out", **OPTIONS)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["host", "disk"])
@pytest.mark.parametrize("name", METHODS)
def test_what_does_not_fit_leaves_no_folder_begun(
    name: str,
    which: str,
    dense: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = {"host": 1 << 40, "disk": 1 << 40} | {which: 1000}
    monkeypatch.setattr(memory, "available", lambda out, device: free)
    with pytest.raises(SteppeError, match="a run must fit in"):
        prune(dense(name), METHODS[name](), windows(6, 16, 26), tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", METHODS)
def test_the_record_counts_the_parameters_of_the_blocks(
    name: str, dense: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = dense(name)
    record = prune(folder, METHODS[name](), windows(6, 16, 26), tmp_path / "out", **OPTIONS)
    before, after = reload(folder), reload(tmp_path / "out")
    gone = 1 - in_blocks(after) / in_blocks(before)
    assert 0 < gone < 1
    assert record["sparsity_reached"] == record["sparsity_asked"] == pytest.approx(gone)
    of_all = 1 - after.num_parameters() / before.num_parameters()
    assert record["sparsity_of_all"] == pytest.approx(of_all)


def test_the_command_says_the_share_of_the_blocks_parameters(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from steppe.cli.main import main

    command = ["prune", str(language_model), "--method", "slim", "--structure", "neurons"]
    command += ["--sparsity", "0.5", "--calibration", str(word_text), "--samples", "4"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--window", "12", "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    gone = 1 - in_blocks(reload(tmp_path / "out")) / in_blocks(reload(language_model))
    assert f"slim: {gone:.4%} gone from the decoder blocks" in capsys.readouterr().err


class Killed(BaseException):
    """As a signal: nothing catches it."""


@pytest.mark.parametrize("name", ["heads", "flap"])
def test_killed_between_the_record_and_the_cleaning(
    name: str, dense: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = dense(name), tmp_path / "out"

    def dies(path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(slim, "_clean", dies)
        with pytest.raises(Killed):
            prune(folder, METHODS[name](), windows(6, 16, 26), out, **OPTIONS)
    assert (out / MASKED).is_dir()
    record = json.loads((out / "record.json").read_text())
    assert prune(folder, METHODS[name](), windows(6, 16, 26), out, **OPTIONS) == record
    assert not (out / MASKED).exists()
    assert not (out / BIASED).exists()


DEAD: dict[str, Callable[[], Method]] = {
    "greedy": lambda: methods.slim(sparsity=0.25, structure="neurons+heads"),
    "by score": lambda: methods.slim(sparsity=0.25, greedy=False, structure="neurons+heads"),
    "flap": lambda: methods.flap(sparsity=0.25),
    "alps": lambda: methods.slim(sparsity=0.25).replace(coupling="layer_admm"),
}


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("name", DEAD)
def test_all_blocks_keep_as_many_units_where_more_were_dead(
    name: str, regrow: bool, language_model: Path, tmp_path: Path
) -> None:
    """Zero in what reads them, in what computes them, or never reached, in one of the blocks."""
    folder = Path(shutil.copytree(language_model, tmp_path / "dense"))

    def kill(tensors: dict[str, Tensor]) -> None:
        inside = "model.layers.0.mlp"
        tensors[f"{inside}.down_proj.weight"][:, 2:11] = 0.0  # 9 of 20, where 5 go
        tensors[f"{inside}.up_proj.weight"][8:14] = 0.0

    changed(folder, kill)
    made, out = DEAD[name](), tmp_path / "out"
    record = prune(folder, made, windows(6, 16, 26), out, regrow=regrow, **OPTIONS)
    neurons = {tuple(v) for n, v in record["removed"]["units"].items() if "mlp" in n}
    assert neurons == {(15, 20)}
    assert reload(out).config.intermediate_size == 15
    assert record["removed"]["agreement"] < 1e-5


def test_all_experts_keep_as_many_neurons_where_more_were_dead(tmp_path: Path) -> None:
    model = build("mixtral", intermediate_size=32)
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[3, :, 4:29] = 0.0
    model.save_pretrained(tmp_path / "dense")
    method = methods.slim(sparsity=0.25, structure="neurons")
    record = prune(tmp_path / "dense", method, windows(6, 16, 26), tmp_path / "out")
    assert {tuple(v) for v in record["removed"]["units"].values()} == {(8 * 24, 8 * 32)}
    assert reload(tmp_path / "out").config.intermediate_size == 24


def estimated(folder: Path, method: Method, out: Path) -> dict[str, int]:
    config = PruneConfig.of(calibration=windows(6, 16, 26), out=out, **OPTIONS)
    return memory.estimate(PreparedPruning(folder, method, config))["disk"]


@pytest.mark.parametrize("name", ["neurons", "heads", "flap"])
def test_the_masked_and_the_cut_model_both_need_room(
    name: str, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slim, "_clean", lambda out: None)
    said = estimated(language_model, METHODS[name](), tmp_path / "out")
    prune(language_model, METHODS[name](), windows(6, 16, 26), tmp_path / "out", **OPTIONS)
    masked, cut = (
        sum(p.stat().st_size for p in folder.glob("model-*.safetensors"))
        for folder in (tmp_path / "out" / MASKED, tmp_path / "out")
    )
    headers = 4096
    assert masked <= said["shards"] + headers
    assert cut <= said["what is cut out of them"] + headers
    assert said["what is cut out of them"] < said["shards"]


@pytest.mark.parametrize("name", ["layers", "influence"])
def test_the_hidden_states_of_trials_are_as_many_as_was_said(
    name: str, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = estimated(language_model, METHODS[name](), tmp_path / "out")["activations"]
    plain, shapes = block_trials.Activations, list[int]()

    def made(path: Path, shape: tuple[int, ...]) -> Any:
        shapes.append(4 * torch.Size(shape).numel())
        return plain(path, shape)

    monkeypatch.setattr(block_trials, "Activations", made)
    prune(language_model, METHODS[name](), windows(6, 16, 26), tmp_path / "out", **OPTIONS)
    assert max(shapes) == said


@pytest.mark.parametrize("name", ["layers", "experts"])
def test_what_has_no_effect_is_refused(
    name: str, dense: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = dense(name)
    with pytest.raises(SteppeError, match=r"--regrow.*Way out: leave it out"):
        prune(folder, METHODS[name](), windows(6, 16, 26), tmp_path / "out", regrow=True, **OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", METHODS)
def test_swaps_are_of_single_weights(name: str) -> None:
    with pytest.raises(SteppeError, match=r"single weights.*leave the swaps out"):
        methods.with_swaps(METHODS[name](), 10)


def test_a_way_out_leads_out(language_model: Path, tmp_path: Path) -> None:
    def refused(method: Method, **options: Any) -> str:
        with pytest.raises(SteppeError) as error:
            prune(language_model, method, windows(6, 16, 26), tmp_path / "out", **options | OPTIONS)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    # flap gives a Llama biases, which a Mistral has not
    assert "Way out: no --family" in refused(methods.flap(sparsity=0.5), family="mistral")
    said = refused(methods.slim(sparsity=0.5), exclude=("*.self_attn.*",))
    assert "no heads" in said
    assert "--exclude '*.self_attn.*'" in said
    assert "Way out: other patterns" in said


def test_a_model_that_was_pruned_before_is_told_of(language_model: Path, tmp_path: Path) -> None:
    def notes(start: Path, method: Method, name: str, **options: Any) -> list[str]:
        made = prune(start, method, windows(6, 16, 26), tmp_path / name, **options | OPTIONS)
        return [x for x in made["fallbacks"] if "pruned before" in x]

    assert notes(language_model, methods.wanda(sparsity=0.5), "zeros") == []
    assert notes(language_model, METHODS["neurons"](), "cut") == []
    for method in (methods.magnitude(sparsity=0.6), *(METHODS[n]() for n in ("flap", "layers"))):
        (said,) = notes(tmp_path / "zeros", method, f"zeros-{method.name}")
        assert "Wanda" in said
        assert "of its parameters are zero" in said
        (said,) = notes(tmp_path / "cut", method, f"cut-{method.name}")
        assert "Slim" in said
        assert "are gone" in said
    # a recovery knows the dense model
    options = {"recover": True}
    assert notes(language_model, methods.wanda(sparsity=0.5), "recovered", **options) == []


def test_layers_beside_the_model_are_told_of(tmp_path: Path) -> None:
    """A DeepSeek's draft layer, which transformers does not run, has as many experts as before."""
    build("deepseek-v3").save_pretrained(tmp_path / "dense")
    draft = "model.layers.3.mlp.experts.0.down_proj.weight"
    changed(tmp_path / "dense", lambda tensors: tensors.update({draft: torch.ones(16, 12)}))
    record = prune(tmp_path / "dense", METHODS["experts"](), windows(6, 16, 26), tmp_path / "out")
    (said,) = [x for x in record["fallbacks"] if "MTP" in x]
    assert said.startswith("model.layers.3: ")


def test_windows_of_its_own_are_written_once(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, written = prepare.sampled, list[str]()

    def counted(model: str, *rest: Any, **more: Any) -> Any:
        written.append(model)
        return plain(model, *rest, **more)

    monkeypatch.setattr(prepare, "sampled", counted)
    record = prune(language_model, METHODS["flap"](), "self", tmp_path / "out", **OPTIONS)
    assert written == [str(language_model)]
    stored = record["recipe"]["calibration"]
    assert record["calibration"] == stored


@pytest.mark.parametrize("name", ["neurons", "experts", "layers"])
def test_a_run_that_goes_on_says_from_where(
    name: str, dense: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, method = dense(name), METHODS[name]()
    config = PruneConfig.of(calibration=windows(6, 16, 26), out=tmp_path / "out", **OPTIONS)
    prepared = PreparedPruning(folder, method, config)
    assert slim.done_before(prepared) == ""

    def dies(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(slim, "cut", dies)
    with pytest.raises(Killed):
        slim.prune_and_cut(prepared)
    number = {"neurons": "2 blocks", "experts": "3 blocks", "layers": "1 round of"}
    assert slim.done_before(prepared).startswith(f"done before: {number[name]}")


@pytest.mark.parametrize("name", ["neurons", "layers"])
def test_cutting_and_checking_are_of_all_the_time(
    name: str, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, now, later = slim.compared, slim.time.time, [0.0]

    def long(*args: Any) -> float:
        later[0] = 1000.0
        return compared(*args)

    monkeypatch.setattr(slim, "compared", long)
    monkeypatch.setattr(slim.time, "time", lambda: now() + later[0])
    method = METHODS[name]()
    record = prune(language_model, method, windows(6, 16, 26), tmp_path / "out", **OPTIONS)
    assert record["seconds"] > 1000.0 > record["seconds_pruning"]
