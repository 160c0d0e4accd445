"""YAML as people write it, and words for numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from steppe.core.errors import SteppeError


class _Loader(yaml.SafeLoader):
    """YAML 1.1, whose numbers are those of YAML 1.2: 1e-4 is one, and 2:4 a text, not 124.

    A key that is there twice is refused, as YAML asks; PyYAML takes the last and says nothing. What
    ``<<`` merges in stands below the mapping's own keys and is no second one.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._seen: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if id(node) not in self._seen:  # later it also has what was merged in
            self._seen.add(id(node))
            _refuse_doubles(node)
        super().flatten_mapping(node)


def _refuse_doubles(node: yaml.MappingNode) -> None:
    scalars = (key for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    keys: set[tuple[str, str]] = set()
    for key in scalars:
        if (key.tag, key.value) in keys:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value} is there twice", key.start_mark
            )
        keys.add((key.tag, key.value))


_BASE_60 = re.compile(r"^[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?$")
_Loader.yaml_implicit_resolvers = {
    first: [("tag:yaml.org,2002:str", _BASE_60), *known] if first in "+-0123456789" else known
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    Args:
        number: of things.
        one: the noun for one of them.
        many: for more or none; with an s if not given.

    Example:
        >>> counted(1, "step"), counted(2, "batch", "batches")
        ('1 step', '2 batches')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def number_or_word(text: str | None) -> int | float | str | None:
    """What a flag gives that is a number or a word, such as auto; None where it is not given.

    No YAML, in which null and ~ would be a flag that is not given.

    Raises:
        SteppeError: the text is empty.

    Example:
        >>> number_or_word("1e-3"), number_or_word("32"), number_or_word("auto")
        (0.001, 32, 'auto')
    """
    if text is None:
        return None
    if not text.strip():
        raise SteppeError(
            "a flag takes a number or a word",
            got="an empty one",
            way_out="leave the flag out, or say auto",
        )
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_yaml(text: str) -> Any:
    """Plain data of a YAML text.

    Raises:
        yaml.YAMLError: it is none, or a key is there twice.

    Example:
        >>> read_yaml("alpha: 1e-4")
        {'alpha': 0.0001}
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def shares_gone(lost: Mapping[str, Sequence[float]]) -> str:
    """How much of each kind of units is gone, in words; nothing where none of any is.

    Args:
        lost: kind -> the shares that are gone, of each layer.

    Example:
        >>> shares_gone({"neurons": [0.5, 0.25], "heads": [0.0]})
        '37.50% of the neurons and no heads gone'
    """
    means = {kind: sum(each) / len(each) for kind, each in lost.items() if each}
    parts = [f"{mean:.2%} of the {kind}" if mean else f"no {kind}" for kind, mean in means.items()]
    return f"{' and '.join(parts)} gone" if any(means.values()) else ""
