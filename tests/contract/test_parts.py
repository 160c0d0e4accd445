"""What every part of every axis fulfils; the registries say which there are."""

import dataclasses

import pytest

from steppe import SteppeError
from steppe.core.protocols import AXES

# Options without a default; every other part is made from its name alone.
NEEDED = {"n": 2, "m": 4, "sparsity": 0.5}


def make(axis, name):
    part = axis.registry[name]
    given = {
        f.name: NEEDED[f.name]
        for f in dataclasses.fields(part)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    return axis.make({"name": name, **given})


PARTS = [pytest.param(a, n, id=f"{a.registry.kind}-{n}") for a in AXES for n in a.registry]


@pytest.mark.parametrize(("axis", "name"), PARTS)
def test_written_down_and_read_back(axis, name):
    part = make(axis, name)
    written = part.to_dict()
    assert written["name"] == part.name == name
    again = axis.make(written)
    assert again == part
    assert type(again) is type(part)
    assert again.to_dict() == written
    assert hash(again) == hash(part)


@pytest.mark.parametrize(("axis", "name"), PARTS)
def test_made_from_itself(axis, name):
    part = make(axis, name)
    assert axis.make(part) is part
    for other in AXES:
        if other is not axis:
            with pytest.raises(SteppeError, match=other.registry.kind):
                other.make(part)


@pytest.mark.parametrize(("axis", "name"), PARTS)
def test_frozen(axis, name):
    part = make(axis, name)
    for field in dataclasses.fields(part):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field.name, getattr(part, field.name))
    assert part.__dataclass_params__.frozen


@pytest.mark.parametrize(("axis", "name"), PARTS)
def test_says_what_it_is(axis, name):
    first = (axis.registry[name].__doc__ or "").splitlines()[0]
    assert len(first) > 10
    assert not first.startswith(f"{axis.registry[name].__name__}("), "only the generated signature"


@pytest.mark.parametrize(("axis", "name"), PARTS)
def test_unknown_option_is_named(axis, name):
    with pytest.raises(SteppeError, match="sparsitty"):
        axis.make({"name": name, "sparsitty": 1})


@pytest.mark.parametrize("axis", AXES, ids=lambda a: a.registry.kind)
def test_unknown_name_lists_the_known(axis):
    with pytest.raises(SteppeError, match=next(iter(axis.registry))):
        axis.make("no such part")
