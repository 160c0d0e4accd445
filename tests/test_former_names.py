"""Names that README and docs showed before version 0.1 still work, and say the new one."""

import importlib
import sys

import pytest

import steppe
from steppe import Method
from steppe.methods.registry import METHODS, PublishedMethod

FORMER = {
    "steppe.core.part.Score": "steppe.core.protocols.Score",
    "steppe.core.part.Perturb": "steppe.core.protocols.Perturb",
    "steppe.core.part.Coupling": "steppe.core.protocols.Coupling",
    "steppe.core.tree.save_tree": "steppe.core.serialization.save_state",
    "steppe.core.tree.load_tree": "steppe.core.serialization.load_state",
    "steppe.engine.batchnorm.reestimate": "steppe.engine.step.batchnorm.reestimate",
    "steppe.engine.batchnorm.frozen_statistics": "steppe.engine.step.buffers.restored_buffers",
    "steppe.engine.step.batchnorm.frozen_statistics": (
        "steppe.engine.step.buffers.restored_buffers"
    ),
    "steppe.engine.trial.make_trial": (
        "steppe.engine.step.candidate_evaluation.candidate_evaluator"
    ),
    "steppe.cli.evaluations.EVALUATIONS": "steppe.evaluation.EVALUATIONS",
    "steppe.methods.amount": "steppe.methods.options.budget_of",
    "steppe.core.layer.prunable": "steppe.core.prunable.prunable",
    "steppe.llm.finetune.MaskKeeper": "steppe.engine.mask_keeper.MaskKeeper",
    "steppe.removal.groups.all_of": "steppe.removal.channel_groups.coupled_channels",
    "steppe.llm.callback.MaskCallback": "steppe.callbacks.MaskCallback",
    "steppe.llm.calibration.windows": "steppe.llm.calibration_windows.windows",
    "steppe.robustness.calibration.calibration_error": (
        "steppe.robustness.calibration_error.calibration_error"
    ),
}


def thing(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_is_the_new_thing(former, monkeypatch):
    module = former.rpartition(".")[0]
    # those are modules of today, too
    if module not in ("steppe.core.part", "steppe.methods", "steppe.engine.step.batchnorm"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.warns(DeprecationWarning, match="is now"):
        old = thing(former)
    assert old is thing(FORMER[former])


def test_a_method_registered_as_before_is_a_method(monkeypatch):
    METHODS.load()
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    with pytest.warns(DeprecationWarning, match="published"):

        @METHODS.register("former")
        def former(sparsity: float = 0.5) -> Method:
            """As before."""
            return Method(name="former", budget={"name": "pooled", "sparsity": sparsity})

    assert isinstance(former, PublishedMethod)
    assert steppe.methods.make("former", sparsity=0.25).sparsity == 0.25
    assert steppe.methods.display_of("former") == "former"
