"""What a plan says of a model that is cut."""

from __future__ import annotations

from pathlib import Path

from steppe import methods
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune_config import PruneConfig
from steppe.llm.skeleton import read_config
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.planned import planned_shape, shape_lines
from steppe.llm.structured.shape import Shape


def prepared_for(model: Path, out: Path) -> PreparedPruning:
    config = PruneConfig.of(out=out, device="cpu", calibration=None)
    return PreparedPruning(str(model), methods.make("slim", sparsity=0.5), config)


def test_the_shape_before_and_after(language_model: Path, tmp_path: Path) -> None:
    prepared = prepared_for(language_model, tmp_path / "out")
    planned = planned_shape(prepared)
    assert planned["before"]["said"] == "2 blocks, 20 neurons, 2 heads"
    assert planned["after"]["said"] == "2 blocks, 10 neurons, 1 heads"
    assert planned["before"]["parameters"] == prepared.model.parameters()
    assert (
        planned["after"]["parameters"]
        == Shape.of(read_config(language_model)).resized(neurons=10, heads=1).parameters
    )
    assert "total_ms" not in planned["after"]
    first, *_, last = shape_lines(planned)
    assert first == ("cut to 2 blocks, 10 neurons, 1 heads, of 2 blocks, 20 neurons, 2 heads")
    assert "steppe latency MODEL" in last


def test_times_come_from_a_table(language_model: Path, tmp_path: Path) -> None:
    whole = Shape.of(read_config(language_model))
    conditions = {"device": "abacus", "threads": 2, "dtype": "float32", "cache": 10**6}
    axes = {"neurons": [10, 20], "heads": [1, 2]}
    table = GenerationTable(conditions, 8, 5, whole, axes, path=tmp_path / "table.json")
    for name, shape, every_word in table.wanted():
        token = 1.0 + every_word + shape.blocks * (shape.neurons + 10 * shape.heads)
        table.points[name] = {"prompt": [4 * token], "token": [token]}
    table.write()
    prepared = prepared_for(language_model, tmp_path / "out")
    planned = planned_shape(prepared, tmp_path / "table.json")
    assert planned["before"]["token_ms"] == 82.0
    assert planned["after"]["token_ms"] == 42.0
    assert planned["after"]["total_ms"] == 42.0 * 8
    assert planned["measured"]["threads"] == 2
    said = shape_lines(planned)[-1]
    assert "a prompt of 8 and 5 tokens: 336 of 656 ms, 23.81 tokens/s instead of 12.2" in said
    assert "measured on abacus, 2 threads, float32" in said


def test_blocks_that_differ_are_said(tmp_path: Path) -> None:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_experts": 4}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes |= {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
    config = Qwen2MoeConfig(**sizes, mlp_only_layers=[0], num_experts_per_tok=2)
    Qwen2MoeForCausalLM(config).save_pretrained(tmp_path / "model")
    planned = planned_shape(prepared_for(tmp_path / "model", tmp_path / "out"))
    (line,) = shape_lines(planned)
    assert "is not known: model.layers.1, whose parameters" in line
