"""What a pruning that cuts says before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steppe.core.layer import Layer
from steppe.core.protocols import Structure

transformers = pytest.importorskip("transformers")

from steppe import methods  # noqa: E402
from steppe.llm.prepare import PreparedPruning  # noqa: E402
from steppe.llm.prune_config import PruneConfig  # noqa: E402
from steppe.llm.structured.chosen import chosen_shape, family_note  # noqa: E402
from steppe.llm.structured.fitting import fitted  # noqa: E402
from steppe.method import Method  # noqa: E402


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=26,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def prepared(llama: Path, method: Method, **options: object) -> PreparedPruning:
    import torch

    tokens = torch.randint(0, 26, (4, 12), generator=torch.Generator().manual_seed(0))
    out = llama.parent / "out"
    return PreparedPruning(llama, method, PruneConfig.of(calibration=tokens, out=out, **options))


def test_the_shape_is_said_before_anything_is_written(llama: Path) -> None:
    job = prepared(llama, methods.slim(sparsity=0.5))
    said = chosen_shape(job)
    assert said == "cut to 2 blocks, 20 neurons, 2 heads, of 2 blocks, 40 neurons, 4 heads"
    assert not job.out.exists()
    assert chosen_shape(prepared(llama, methods.wanda(sparsity=0.5))) == ""


def test_a_note_names_the_heads_of_another_family(llama: Path) -> None:
    method = fitted(methods.slim(sparsity=0.5), llama, "parameters=0.7")
    note = family_note(prepared(llama, method))
    assert "of 4 heads this config lets 1, 2 or 4 stay" in note
    assert "--family mistral" in note
    assert "also 3 may stay" in note
    assert family_note(prepared(llama, method, family="mistral")) == ""
    assert family_note(prepared(llama, methods.slim(sparsity=0.5, structure="neurons"))) == ""
    assert family_note(prepared(llama, methods.flap(sparsity=0.5))) == "", "biases are Llama's"
    stored = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(stored | {"attention_bias": True}))
    biased = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(llama))
    biased.save_pretrained(llama)
    assert family_note(prepared(llama, methods.slim(sparsity=0.5))) == ""


@pytest.mark.parametrize(
    ("structure", "shares", "said"),
    [
        ("neurons+heads", {"neurons": 0.25, "heads": 0.5}, "25.00% of the neurons and 50.00%"),
        ("neurons+heads", {"neurons": 0.0, "heads": 0.5}, "no neurons and 50.00% of the heads"),
        ("neurons+heads", {"neurons": 0.0, "heads": 0.0}, "0.00% zeros"),
        ("experts", {"": 0.25}, "25.00% of the experts gone"),
        ("2:4", {"": 0.5}, "50.00% zeros"),
    ],
)
def test_a_structure_says_what_is_gone(structure: str, shares: dict[str, float], said: str) -> None:
    layers = [(Layer("w", (4, 8), reads=kind), share) for kind, share in shares.items()]
    assert said in Structure.make(structure).gone(layers)
