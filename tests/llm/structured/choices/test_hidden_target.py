"""The hidden size that a target leaves: the widest that meets it, as transformers counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import language_models
import mixture_models
from language_models import Saved, reload, windows
from steppe import SteppeError, methods
from steppe.llm.prune import prune
from steppe.llm.skeleton import config_of
from steppe.llm.structured.fitting import fitted

MIXTURES = {"mixtral", "deepseek-v3"}


def build(name: str) -> Any:
    """Mixtures are wide: their streams stay a multiple of 8."""
    if name in MIXTURES:
        return mixture_models.build(name, hidden_size=32)
    return language_models.build(name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory, build)


def counted(folder: Path, width: int) -> int:
    """Parameters of a model that transformers makes of the config with another width."""
    import transformers

    held = json.loads((folder / "config.json").read_text())
    heads = held.get("head_dim") or held["hidden_size"] // held["num_attention_heads"]
    config = config_of(held | {"hidden_size": width, "head_dim": heads})
    made: int = transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    return made


@pytest.mark.parametrize(
    ("name", "target", "step"),
    [
        ("mistral", "parameters=0.8", 1),
        ("qwen2", "bytes=0.6", 1),  # tied
        ("mistral", "parameters=0.7", 4),
        ("mixtral", "bytes=0.8", 8),
        ("deepseek-v3", "parameters=0.6", 8),  # whose blocks are not alike
    ],
)
def test_the_widest_that_meets_it(
    name: str, target: str, step: int, saved: Saved, tmp_path: Path
) -> None:
    structure = {"name": "hidden", "round_to": step}
    method = methods.make("hidden", sparsity=0.5, structure=structure, scale=False, fit=False)
    made = fitted(method, saved(name), target)
    assert made.structure == method.structure
    record = prune(saved(name), made, windows(), tmp_path / "out")
    stay, of = record["removed"]["hidden"]
    share = target.split("=")[1]
    assert stay % step == 0
    # of all bytes as of all parameters: files of tiny models are half names
    assert record["sparse"]["parameters"] <= float(share) * record["dense"]["parameters"]
    parameters = reload(tmp_path / "out").num_parameters()
    assert parameters == counted(saved(name), stay)
    wider = counted(saved(name), stay + step)
    assert stay + step <= of
    assert wider > float(share) * counted(saved(name), of) >= parameters


def test_widths_that_the_config_refuses_are_passed_over(saved: Saved) -> None:
    """Llama's must be a multiple of its heads, of which there are four."""
    method = methods.make("hidden", sparsity=0.5)
    plain = fitted(method, saved("llama"), "parameters=0.9")
    assert plain.sparsity == 0.25
    assert fitted(method, saved("llama"), "parameters=0.9", family="mistral").sparsity == 0.125


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("mistral", "parameters=0.01", "hidden size of 1.*Way out: --target parameters=0"),
        ("mistral", "parameters=1G", "less than the whole model"),
        ("mistral", "latency=0.5", "got hidden, measured: blocks.*--target parameters"),
        ("gpt2", "parameters=0.7", "config says the hidden size by itself.*--structure neurons"),
    ],
)
def test_what_cannot_be_met(name: str, target: str, said: str, saved: Saved) -> None:
    with pytest.raises(SteppeError, match=said) as refused:
        fitted(methods.make("hidden", sparsity=0.5), saved(name), target)
    assert "\n" not in str(refused.value)
