"""A recipe's file, whatever it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from steppe import recipes
from steppe.core.errors import SteppeError
from steppe.core.hub_names import nearest
from steppe.core.text import read_yaml


def is_recipe(argument: str) -> bool:
    """Whether it is a file, or the name of a recipe that comes with steppe.

    Example:
        >>> is_recipe("digits"), is_recipe("org/model")
        (True, False)
    """
    return Path(argument).is_file() or argument.removesuffix(".yaml") in recipes.names()


def read_plain(recipe: Path | str) -> tuple[dict[str, Any], Path]:
    """A recipe's file, or the one of that name that comes with steppe, as plain data.

    Returns:
        The data, and the file.

    Raises:
        SteppeError: there is no such file, or it is no mapping in YAML.
    """
    path = Path(recipe)
    if not path.is_file() and path.as_posix() in recipes.names():
        path = recipes.path_of(path.as_posix())
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SteppeError(
            "a recipe must be a readable file, or the name of one that comes with steppe",
            got=f"{path} ({error.strerror})",
            way_out=nearest(path, Path.is_file)
            + "steppe recipes lists those that come with steppe",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise SteppeError(
            "a recipe must be YAML",
            got=f"{path}: {text}",
            way_out="mend that line; steppe recipes digits shows a whole recipe",
        ) from None
    if not isinstance(data, dict):
        raise SteppeError(
            f"{path} must be a mapping",
            got=type(data).__name__,
            way_out="keys and values, as steppe recipes digits shows",
        )
    return data, path
