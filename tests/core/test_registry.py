"""Parts find themselves."""

from importlib.metadata import EntryPoint

import pytest

from steppe import SteppeError
from steppe.core import registry as module
from steppe.core.registry import Registry


def plain():
    """A registry of a package whose files register nothing in it."""
    return Registry("colour", "steppe.objective")


def test_found_by_name_in_sorted_order():
    colours = plain()
    for name in ("red", "blue"):
        colours.register(name)(type(name, (), {}))
    assert list(colours) == ["blue", "red"]
    assert len(colours) == 2
    assert "red" in colours
    assert "green" not in colours
    with pytest.raises(SteppeError, match="did you mean red"):
        colours["reed"]


def test_one_name_for_one_thing():
    colours = plain()
    colours.register("red")(Registry)
    colours.register("red")(Registry)  # a file read twice is one thing still
    with pytest.raises(AssertionError, match="two things"):
        colours.register("red")(SteppeError)


def test_other_packages_bring_parts_by_entry_points(monkeypatch):
    point = EntryPoint("pi", "math:pi", "steppe.objective")
    asked = []

    def points(group):
        asked.append(group)
        return [point]

    monkeypatch.setattr(module, "entry_points", points)
    list(plain())
    assert asked == ["steppe.objective"]

    broken = EntryPoint("broken", "no_such_module:thing", "steppe.objective")
    monkeypatch.setattr(module, "entry_points", lambda group: [broken])
    with pytest.raises(SteppeError, match="broken = no_such_module"):
        list(plain())
