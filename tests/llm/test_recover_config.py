"""What a recovery may be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from steppe import RecoverConfig, SteppeError
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.engine.blockwise.trained import TRAINED


def test_the_learning_rate_is_that_of_what_is_trained() -> None:
    rates = {name: RecoverConfig.of(train=name).reconstruction.lr for name in TRAINED}
    assert rates == {name: TRAINED[name].lr for name in TRAINED}
    assert len(set(rates.values())) == 3
    assert RecoverConfig.of(train="lora", reconstruction={"epochs": 3}).reconstruction.lr == 5e-3
    assert RecoverConfig.of(train="norms", reconstruction={"lr": 0.5}).reconstruction.lr == 0.5
    whole = ReconstructionConfig(epochs=2)
    assert RecoverConfig.of(train="norms", reconstruction=whole).reconstruction == whole


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"train": "weigths"}, "weights"),
        ({"rank": 0}, "--rank 8"),
        ({"held_out": 1.0}, "--held-out 0.125"),
        ({"regrow": True}, "leave both out"),
        ({"reconstruction": {"lr": -1.0}}, "learning rate"),
        ({"reconstruction": {"epoch": 3}}, "epochs"),
        ({"tokens": "5M"}, "--scope whole, or --samples 512 instead"),
        ({"scope": "whole", "samples": 9}, "--scope blocks, or --tokens 10M instead"),
        ({"scope": "whole", "train": "lora"}, "--train weights, or --scope blocks"),
        ({"scope": "all"}, "blocks.*whole"),
        ({"dens": "x"}, "option of recover.*dense"),
    ],
)
def test_what_cannot_be_is_one_line(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said) as refused:
        RecoverConfig.of(**asked)
    assert "\n" not in str(refused.value)


def test_some_windows_train_and_some_judge() -> None:
    config = RecoverConfig()
    assert [config.judged_on(n) for n in (1, 2, 8, 128)] == [0, 1, 1, 16]
    assert RecoverConfig(held_out=0.0).judged_on(8) == 0


def test_a_whole_model_has_its_own_learning_rate() -> None:
    for name in ("weights", "norms"):
        config = RecoverConfig.of(scope="whole", train=name)
        assert config.reconstruction.lr == TRAINED[name].lr_of_whole
