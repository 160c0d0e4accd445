"""What a recipe of a language model may say."""

import pytest

from steppe import SteppeError
from steppe.experiment.causal_lm.recipe import LanguageTrainSpec, parse

SMALL = {"task": "causal_lm", "model": "folder", "data": "text.txt"}


def test_numbers_of_tokens_are_written_short():
    for text, tokens in (("50M", 50_000_000), ("1.5B", 1_500_000_000), ("64k", 64_000), (7, 7)):
        assert LanguageTrainSpec(tokens=text).tokens == tokens


def test_the_run_has_whole_steps_and_equal_parts():
    spec = LanguageTrainSpec(tokens=1000, parts=4, batch_size=2, accumulate=3)
    assert spec.tokens_a_step(10) == 60
    assert spec.plan(10) == (4, 5), "17 steps, rounded up to 20"
    assert spec.plan(1000) == (1, 1)


def test_every_layer_loses_the_same_unless_a_budget_is_said():
    spec = {"name": "gmp", "sparsity": 0.5}
    assert parse(SMALL | {"method": spec}).build_method().budget.name == "uniform"
    pooled = parse(SMALL | {"method": spec | {"budget": "pooled"}})
    assert pooled.build_method().budget.name == "pooled"
    assert parse(pooled.plain()).plain() == pooled.plain()
    assert parse(SMALL | {"method": spec}).plain()["method"]["budget"] == "uniform"


def test_adam_has_the_betas_of_language_models_and_sgd_none():
    method = {"name": "gmp", "sparsity": 0.5}
    config = parse(SMALL | {"method": method}).train.config()
    assert (config.optimizer, config.optimizer_options) == ("adam", {"betas": (0.9, 0.95)})
    assert config.lr_schedule == "linear"
    other = parse(SMALL | {"method": method, "train": {"optimizer": "sgd"}})
    assert other.train.config().optimizer_options == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": None}, "which text is trained on.*--data TEXT"),
        ({"train": {"token": 5}}, "'?train.token'?.*train.tokens|tokens"),
        ({"train": {"tokens": "many"}}, "train.tokens"),
        ({"method": {"name": "sparsegpt", "sparsity": 0.5}}, "steppe prune"),
        ({"train": {"optimizer_options": {"beta": 1}}}, "option of optimizer adam"),
    ],
)
def test_bad_recipes_are_one_line(change, said):
    def checked():
        made = parse(SMALL | {"method": {"name": "gmp", "sparsity": 0.5}} | change)
        made.build_method()
        made.train.config()

    with pytest.raises(SteppeError, match=said) as refused:
        checked()
    assert "\n" not in str(refused.value)
