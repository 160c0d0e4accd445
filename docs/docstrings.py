"""How the site reads docstrings: ``Example:`` holds a doctest, as ``Examples:`` does elsewhere."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class Examples(griffe.Extension):
    """Reads ``Example:`` as a section of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object that was loaded, with its docstring not yet parsed."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
