"""Every recipe that comes with steppe is whole, and says in one sentence what it is."""

from __future__ import annotations

import re

from steppe import recipes
from steppe.experiment.recipe import read


def test_every_recipe_builds_its_method() -> None:
    seen = set()
    for name in recipes.names():
        made = read(recipes.path_of(name))
        made.build_method()
        assert made.name, f"{name} gives its runs no name"
        assert made.name not in seen, f"{name} needs a name of its own"
        seen.add(made.name)


def test_the_first_line_of_each_is_a_sentence() -> None:
    for name in recipes.names():
        first = recipes.path_of(name).read_text().splitlines()[0]
        assert re.fullmatch(r"# .{20,106}[.]", first), f"{name}: {first}"


def test_a_name_may_end_as_its_file_does() -> None:
    assert recipes.path_of("digits.yaml") == recipes.path_of("digits")
