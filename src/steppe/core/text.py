"""YAML as people write it."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.1, whose numbers are those of YAML 1.2: 1e-4 is one, not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Plain data of a YAML text.

    Raises:
        yaml.YAMLError: it is none.

    Example:
        >>> read_yaml("alpha: 1e-4")
        {'alpha': 0.0001}
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
