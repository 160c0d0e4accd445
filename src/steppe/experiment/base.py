"""A recipe that says only in what it differs from another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from steppe import recipes
from steppe.core.errors import SteppeError
from steppe.core.text import read_yaml

KEY = "base"


def whole(data: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """A recipe's plain data, with everything of its ``base`` that it does not say itself.

    Mappings are merged key by key. One with another ``name`` than the base's (another network, data
    set or method) takes nothing of it, as its options are of another kind; nor does a list.

    Args:
        data: the recipe; ``base`` in it is the name of one that comes with steppe, or a file.
        folder: where a file's path starts; the current one if None.

    Raises:
        SteppeError: there is no such base, it is no mapping, or it has itself as its base.

    Example:
        >>> small = whole({"base": "digits", "method": {"sparsity": 0.5}})
        >>> small["method"]["name"], small["method"]["sparsity"], small["train"]["epochs"]
        ('safe', 0.5, 60)
        >>> whole({"base": "digits", "method": {"name": "gmp"}})["method"]
        {'name': 'gmp'}
    """
    layers = [dict(data)]
    files: list[Path] = []
    while KEY in layers[-1]:
        path = _file(layers[-1].pop(KEY), folder)
        if path in files:
            raise SteppeError(
                "a recipe is no base of itself",
                got=" -> ".join(map(str, [*files, path])),
                way_out="leave base out of one of them",
            )
        files.append(path)
        folder = path.parent
        layers.append(_read(path))
    merged = layers.pop()
    while layers:
        merged = _merged(_spelled_out(merged), _spelled_out(layers.pop()))
    return merged


def _file(base: Any, folder: Path | None) -> Path:
    if isinstance(base, str):
        path = (folder or Path()) / base
        if path.is_file():
            return path.resolve()
        if base.removesuffix(".yaml") in recipes.names():
            return recipes.path_of(base).resolve()
    raise SteppeError(
        "base is the name of a recipe that comes with steppe, or a file",
        got=repr(base),
        way_out="steppe recipes lists the names",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise SteppeError(
            "a base must be a readable recipe",
            got=f"{path}: {text}",
            way_out="mend that file, or name another base",
        ) from None
    if not isinstance(data, dict):
        raise SteppeError(
            "a base must be a mapping",
            got=f"{path}, {type(data).__name__}",
            way_out="keys and values, as steppe recipes digits shows",
        )
    return data


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``own`` on top of ``base``."""
    merged = dict(base)
    for key, value in own.items():
        below: Any = base.get(key)
        alike = isinstance(below, dict) and isinstance(value, dict)
        if alike and value.get("name", below.get("name")) == below.get("name"):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _spelled_out(data: dict[str, Any]) -> dict[str, Any]:
    """With a mapping for each part that is given by its name alone."""
    parts = ("model", "data", "method")
    return data | {k: {"name": data[k]} for k in parts if isinstance(data.get(k), str)}
