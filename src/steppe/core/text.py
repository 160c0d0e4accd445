"""YAML as people write it."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.1, whose numbers are those of YAML 1.2: 1e-4 is one, not a text.

    A key that is there twice is refused, as YAML asks; PyYAML takes the last and says nothing. What
    ``<<`` merges in stands below the mapping's own keys and is no second one.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._merged: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        own = {id(key) for key, _ in node.value}
        super().flatten_mapping(node)  # puts what is merged in before what is there
        self._merged |= {id(key) for key, _ in node.value} - own

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and id(key) not in self._merged:
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} is there twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        constructed: dict[Any, Any] = super().construct_mapping(node, deep)
        return constructed


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def number_or_word(text: str | None) -> Any:
    """What a flag gives that is a number or a word, such as auto; None where it is not given.

    Example:
        >>> number_or_word("1e-3"), number_or_word("32"), number_or_word("auto")
        (0.001, 32, 'auto')
    """
    try:
        return None if text is None else read_yaml(text)
    except yaml.YAMLError:
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
