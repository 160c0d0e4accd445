"""Methods whose structure meets a target, from a model's config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixture_models import build
from steppe import SteppeError, methods
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune import prune
from steppe.llm.prune_config import PruneConfig
from steppe.llm.skeleton import read_config
from steppe.llm.structured.choice import EXPECTATIONS
from steppe.llm.structured.fitting import fitted
from steppe.llm.structured.planned import planned_shape
from steppe.llm.structured.shape import Shape


def test_the_pruned_model_has_the_parameters_that_were_asked_for(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    """As transformers counts them in what is written."""
    from transformers import AutoModelForCausalLM

    whole = Shape.of(read_config(language_model))
    method = fitted(methods.make("slim", sparsity=0.5), language_model, "parameters=0.7")
    kept = dict(method.structure.to_dict()["keep"])
    assert kept == {"neurons": 14, "heads": 1}
    meets = whole.resized(**kept).parameters
    assert meets <= 0.7 * whole.parameters < whole.resized(neurons=15, heads=1).parameters
    assert method.sparsity == pytest.approx(7 / 22)
    options: dict[str, Any] = {"samples": 4, "window": 16, "measure": 0, "device": "cpu"}
    record = prune(language_model, method, word_text, tmp_path / "out", **options)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in written.parameters()) == meets
    assert record["sparse"]["parameters"] == meets
    assert record["recipe"]["method"]["structure"]["keep"] == [["neurons", 14], ["heads", 1]]


def test_what_the_structure_rounds_to_holds(language_model: Path) -> None:
    structure = {"name": "units", "of": ["neurons"], "round_to": 8}
    method = fitted(
        methods.make("slim", sparsity=0.5, structure=structure), language_model, "parameters=0.9"
    )
    assert method.structure.to_dict()["keep"] == [["neurons", 8]]
    assert method.structure.to_dict()["round_to"] == 8


@pytest.mark.parametrize(
    ("structure", "target", "said"),
    [
        ("unstructured", "parameters=0.5", "method slim, depth, reap or hidden"),
        ("heads", "parameters=0.5", "1 head.*Way out: --target parameters=0"),
        ("neurons", "latency=0.5", "needs the times of blocks here"),
        ("neurons", "weight=0.5", "a target limits"),
    ],
)
def test_what_cannot_be(language_model: Path, structure: str, target: str, said: str) -> None:
    method = methods.wanda(0.5, structure=structure)
    with pytest.raises(SteppeError, match=said):
        fitted(method, language_model, target)


def test_only_the_config_is_read(language_model: Path, tmp_path: Path) -> None:
    config = (language_model / "config.json").read_text()
    (tmp_path / "config.json").write_text(json.dumps(json.loads(config)))
    method = fitted(methods.make("slim", sparsity=0.5), tmp_path, "bytes=0.7")
    assert dict(method.structure.to_dict()["keep"]) == {"neurons": 14, "heads": 1}


def test_biases_that_a_method_adds_count(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    """FLAP leaves means to biases, which a Llama has none of at first."""
    method = fitted(methods.make("flap", sparsity=0.5), language_model, "parameters=0.7")
    options: dict[str, Any] = {"samples": 4, "window": 16, "measure": 0, "device": "cpu"}
    prepared = PreparedPruning(
        str(language_model),
        method,
        PruneConfig.of(calibration=word_text, out=tmp_path / "out", **options),
    )
    planned = planned_shape(prepared, EXPECTATIONS["units"](prepared, {}, False))
    record = prune(language_model, method, word_text, tmp_path / "out", **options)
    assert record["sparse"]["parameters"] == planned["after"]["parameters"]
    assert planned["after"]["parameters"] <= 0.7 * planned["before"]["parameters"]
    assert planned["after"]["per_block"] > planned["before"]["per_block"]


def test_blocks_and_experts_by_targets(language_model: Path, tmp_path: Path) -> None:
    """Their structures have no options: the budget's sparsity says how many go."""
    from transformers import MixtralConfig

    blocks = fitted(methods.make("depth", sparsity=0.5), language_model, "parameters=0.7")
    assert blocks.sparsity == 0.5
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_local_experts": 8}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = MixtralConfig(**sizes, architectures=["MixtralForCausalLM"])
    config.save_pretrained(tmp_path)
    whole = Shape.of(config)
    experts = fitted(methods.make("reap", sparsity=0.5), tmp_path, "parameters=0.8")
    kept = 8 - round(8 * experts.sparsity)
    assert whole.resized(experts=kept).parameters <= 0.8 * whole.parameters
    assert whole.resized(experts=kept + 1).parameters > 0.8 * whole.parameters
    structure = {"name": "units", "of": ["neurons"]}
    narrow = fitted(methods.make("slim", sparsity=0.5, structure=structure), tmp_path, "bytes=0.8")
    assert narrow.structure.to_dict()["keep"] == [["neurons", 16]]


@pytest.fixture(scope="module")
def four_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 26, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 4}
    folder = tmp_path_factory.mktemp("four")
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(folder)
    return folder


def tokens() -> Tensor:
    return torch.randint(26, (4, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("share", [0.9, 0.7])
@pytest.mark.parametrize("target", ["parameters", "bytes"])
def test_what_patterns_leave_out_does_not_go(
    target: str, share: float, four_blocks: Path, tmp_path: Path
) -> None:
    """Of the blocks that may go as many more go as meet the target."""
    patterns = {"exclude": ("model.layers.0.*", "model.layers.3.*")}
    method = fitted(
        methods.make("depth", sparsity=0.5), four_blocks, f"{target}={share}", **patterns
    )
    record = prune(four_blocks, method, tokens(), tmp_path / "out", **patterns)
    assert record["sparse"][target] <= share * record["dense"][target]
    left = {"model.layers.0", "model.layers.3"}
    assert not left & set(record["removed"]["blocks"])


@pytest.mark.parametrize(
    ("method", "patterns", "said"),
    [
        ("depth", {"exclude": ("model.layers.[013].*",)}, "2 blocks go, of 1 that may"),
        ("depth", {"include": ("model.layers.2.*",)}, "2 blocks go, of 1 that may"),
        ("slim", {"exclude": ("model.layers.1.*",)}, "leave out model.layers.1"),
        ("slim", {"include": ("*.o_proj", "model.layers.0.*")}, r"down_proj.weight and 2 more"),
    ],
)
def test_patterns_that_leave_too_little(
    method: str, patterns: dict[str, Any], said: str, four_blocks: Path
) -> None:
    with pytest.raises(SteppeError, match=said) as refused:
        fitted(methods.make(method, sparsity=0.5), four_blocks, "parameters=0.6", **patterns)
    assert "\n" not in str(refused.value)


def test_patterns_that_leave_all_units(four_blocks: Path) -> None:
    method = fitted(
        methods.make("slim", sparsity=0.5), four_blocks, "parameters=0.7", exclude=("*.q_proj",)
    )
    assert method == fitted(methods.make("slim", sparsity=0.5), four_blocks, "parameters=0.7")


@pytest.mark.parametrize("target", ["parameters=0.7", "bytes=0.7", "parameters=2000"])
@pytest.mark.parametrize("method", ["slim", "flap", "depth"])
def test_a_table_that_counts_nothing_is_refused(
    method: str, target: str, language_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(SteppeError, match="a table of times is for a target in time"):
        fitted(
            methods.make(method, sparsity=0.5),
            language_model,
            target,
            table=tmp_path / "table.json",
        )


@pytest.mark.parametrize("share", [0.9, 0.8, 0.7])
def test_groups_of_experts_stay_equally_large(share: float, tmp_path: Path) -> None:
    """A router that chooses among groups first needs as many experts in each."""
    groups = {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 0}
    build("deepseek-v3", **groups).save_pretrained(tmp_path / "dense")
    method = fitted(methods.make("reap", sparsity=0.5), tmp_path / "dense", f"parameters={share}")
    record = prune(tmp_path / "dense", method, tokens(), tmp_path / "out")
    assert record["sparse"]["parameters"] <= share * record["dense"]["parameters"]
    (stay,) = {stay for stay, _ in record["removed"]["experts"].values()}
    assert stay % 2 == 0
    assert stay < 8


@pytest.mark.parametrize("target", [None, "parameters=0.7"])
def test_the_command_refuses_a_table_without_use(
    target: str | None,
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from steppe.cli.main import main

    command = ["prune", str(language_model), "--method", "slim", "--calibration", str(word_text)]
    command += ["--target", target] if target else ["--sparsity", "0.5"]
    table = str(tmp_path / "table.json")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--latency-table", table, "--out", str(tmp_path / "out")])
    assert ended.value.code != 0
    assert "a table of times is for a target in time" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
