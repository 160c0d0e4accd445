"""Few blocks built and timed: what is asked for, and that nothing is measured twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steppe import SteppeError
from steppe.llm.structured import block_timing
from steppe.llm.structured.block_timing import axis, built, measure, of_few_words, timed, written
from steppe.llm.structured.shape import Shape
from steppe.removal.forward_timing import conditions


def config_of(kind: str = "Llama", **changes: Any) -> Any:
    import transformers

    sizes = {
        "vocab_size": 100,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "eos_token_id": 99,
    }
    return getattr(transformers, f"{kind}Config")(**sizes | changes)


class Abacus:
    """Builds nothing, times by a formula, and remembers what it was asked."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[tuple[Shape, int]] = []
        self.fails_at = fails_at

    def build(self, config: Any, shape: Shape, dtype: torch.dtype, device: str) -> Any:
        return shape, config.vocab_size

    def time(self, model: Any, prompt: int, tokens: int) -> tuple[float, float]:
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append(model)
        shape, words = model
        token = 2.0 + words / 50 + shape.blocks * (1.0 + shape.neurons / 8 + shape.heads / 4)
        return prompt * token, token


def run(abacus: Abacus, config: Any = None, **options: Any) -> Any:
    options = {"prompt": 8, "tokens": 6} | options
    config = config_of() if config is None else config
    return measure(config, timer=abacus.time, build=abacus.build, **options)


def test_what_is_measured_predicts_any_shape() -> None:
    abacus = Abacus()
    table = run(abacus, passes=1)
    whole = Shape.of(config_of())
    assert table.axes == {"neurons": [3, 6, 12, 18, 24], "heads": [1, 2, 3, 4]}
    assert len(abacus.asked) == len(table.points)
    for shape in (whole, whole.resized(blocks=2, neurons=10, heads=3)):
        token = abacus.time((shape, 100), 8, 6)[1]
        assert table.times(shape).token == pytest.approx(token)
        assert table.times(shape).prompt == pytest.approx(8 * token)
    assert {words for _, words in abacus.asked} == {64, 100}


def test_a_stopped_measurement_goes_on(tmp_path: Path) -> None:
    path, stopped = tmp_path / "t.json", Abacus(fails_at=15)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, path=path, passes=2)
    rest = Abacus()
    table = run(rest, path=path, passes=2)
    fresh = Abacus()
    assert table.points == run(fresh, passes=2).points
    assert len(stopped.asked) + len(rest.asked) == len(fresh.asked)
    again = Abacus()
    run(again, path=path, passes=2)
    assert again.asked == []
    run(again, path=path, passes=3)
    assert len(again.asked) == len(table.points)


def test_another_machine_model_or_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json"
    run(Abacus(), path=path, passes=1)
    with pytest.raises(SteppeError, match="a prompt of 9"):
        run(Abacus(), path=path, prompt=9)
    with pytest.raises(SteppeError, match="for the dtype"):
        run(Abacus(), path=path, dtype=torch.bfloat16)
    with pytest.raises(SteppeError, match="of the model whose time is predicted"):
        run(Abacus(), config_of(num_hidden_layers=2), path=path)
    with pytest.raises(SteppeError, match="for the family"):
        run(Abacus(), config_of("Mistral", sliding_window=None, num_key_value_heads=4), path=path)
    another = {"device": "another"}
    monkeypatch.setattr(block_timing, "conditions", lambda model: conditions(model) | another)
    with pytest.raises(SteppeError, match="for the device"):
        run(Abacus(), path=path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": 0}, "prompt 0"),
        ({"tokens": 1}, "tokens 1"),
        ({"passes": 0}, "passes 0"),
        ({"multiple": 0}, "round_to 0"),
        ({"prompt": 60}, "for 64 positions"),
    ],
)
def test_wrong_texts(options: dict[str, int], said: str) -> None:
    abacus = Abacus()
    with pytest.raises(SteppeError, match=said):
        run(abacus, **options)
    assert abacus.asked == []


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mixtral"])
def test_a_model_that_is_timed_writes_as_many_tokens(kind: str) -> None:
    config = config_of(kind, num_key_value_heads=2)
    shape = Shape.of(config).resized(blocks=2, heads=1)
    before = torch.random.get_rng_state()
    model = built(of_few_words(config), shape, torch.bfloat16, "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.get_input_embeddings().weight.shape[0] == 64
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    first, each = written(model, 9, 4)
    assert first > 0
    assert each > 0
    assert all(ms > 0 for ms in timed(model, 9, 30, repeats=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_tied_stays_tied() -> None:
    config = config_of(tie_word_embeddings=True)
    shape = Shape.of(config)
    model = built(config, shape, torch.float32, "cpu")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert sum(p.numel() for p in model.parameters()) == shape.parameters


def test_a_width_is_never_measured_at_none() -> None:
    assert axis(1) == [1]
    assert axis(20, multiple=32) == [20]
    assert all(w % 8 == 0 for w in axis(672, multiple=8))
