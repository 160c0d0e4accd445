"""How the site reads docstrings: ``Example:`` holds a doctest, as ``Examples:`` does elsewhere."""

from __future__ import annotations

import ast
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

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """A field of a configuration says what it is in ``description=``, for the help too."""
        if attr.docstring is None and isinstance(attr.value, griffe.ExprCall):
            for argument in attr.value.arguments:
                if isinstance(argument, griffe.ExprKeyword) and argument.name == "description":
                    text = ast.literal_eval(str(argument.value))
                    attr.docstring = griffe.Docstring(text, parent=attr)
