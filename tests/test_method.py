"""Methods as values: parts that fit, written down and read back."""

import dataclasses

import pytest

import steppe
from steppe import Method, SteppeError, methods
from steppe.core.protocols import AXES
from steppe.structure.nm import NM

POOLED = {"name": "pooled", "sparsity": 0.5}


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_published_methods_are_values(name):
    build = getattr(methods, name)
    method = build() if name == "dense" else build(sparsity=0.9)
    assert method.name == name
    assert method.sparsity == (0.0 if name == "dense" else 0.9)
    assert Method.from_dict(method.to_dict()) == method
    assert Method.from_yaml(method.to_yaml()) == method
    assert hash(Method.from_yaml(method.to_yaml())) == hash(method)
    assert list(method.to_dict()) == ["name", *[axis.registry.kind for axis in AXES]]
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.name = "other"


@pytest.mark.parametrize("name", [n for n in methods.METHODS if n != "dense"])
def test_a_shape_may_fix_the_sparsity(name):
    method = methods.make(name, structure="2:4")
    assert method.structure == NM(n=2, m=4)
    assert method.sparsity == 0.5
    with pytest.raises(SteppeError, match="sparsity must be given"):
        methods.make(name)
    with pytest.raises(SteppeError, match=r"sparsity of 0\.5"):
        methods.make(name, structure="2:4", sparsity=0.9)


def test_defaults_are_the_papers():
    safe = methods.safe(sparsity=0.95)
    assert (safe.coupling.penalty, safe.coupling.curve, safe.coupling.interval) == (
        1e-3,
        "cosine",
        32,
    )
    assert safe.perturb.rho == 0.1
    assert methods.admm(sparsity=0.95).coupling.curve == "constant"
    assert not methods.admm(sparsity=0.95).perturb.active
    assert methods.safe_plus(sparsity=0.95).replace(name="safe", score="magnitude") == safe


def test_one_part_replaced():
    method = methods.safe(sparsity=0.9).replace(perturb="none", structure="block:2x4")
    assert method.perturb.name == "none"
    assert method.structure.to_dict() == {"name": "block", "height": 2, "width": 4}
    assert method.coupling == methods.safe(sparsity=0.9).coupling
    with pytest.raises(SteppeError):
        method.replace(structure="2:4")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"budget": POOLED, "perturbation": "sam"}, "unknown axis"),
        ({"score": "magnitude"}, "needs a budget"),
        ({"budget": "pooled"}, "sparsity"),
        ({"budget": {"name": "pool", "sparsity": 0.5}}, "did you mean pooled"),
        ({"budget": POOLED, "score": "magnitud"}, "did you mean magnitude"),
        ({"budget": POOLED, "structure": "4:2"}, "write 2:4"),
        ({"budget": POOLED, "structure": "block:0x4"}, "block"),
        ({"budget": POOLED, "coupling": {"name": "admm", "penalty": -1.0}}, "penalty"),
        ({"budget": POOLED, "coupling": {"name": "admm", "curve": "cosin"}}, "cosine"),
        ({"budget": POOLED, "coupling": {"name": "admm", "interval": 0}}, "interval"),
    ],
)
def test_what_cannot_work_is_said_when_built(data, says):
    with pytest.raises(SteppeError, match=says):
        Method.from_dict(data)


@pytest.mark.parametrize("text", ["", "- a", "safe"])
def test_text_that_is_no_method(text):
    with pytest.raises(SteppeError, match="mapping"):
        Method.from_yaml(text)


def test_unknown_methods_and_options():
    with pytest.raises(SteppeError, match="did you mean safe"):
        methods.make("saef")
    with pytest.raises(SteppeError, match="radius"):
        methods.make("safe", sparsity=0.5, radius=1)
    with pytest.raises(AttributeError, match="saef"):
        _ = methods.saef
    assert steppe.methods.safe is methods.METHODS["safe"]
