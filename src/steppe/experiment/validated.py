"""A recipe of any task from plain data, on top of its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from steppe.core.errors import SteppeError
from steppe.experiment import base
from steppe.experiment.strict import refused

Kind = TypeVar("Kind", bound=BaseModel)
Explain = Callable[[ValidationError, str], SteppeError | None]
"""The error for a mistake that a task has more to say about; None where it has not."""


@dataclass(frozen=True)
class Needed:
    """The key of ``data`` without which there is nothing to train on.

    Args:
        key: of the mapping; where ``data`` is no mapping, it is that value itself.
        what: it says, within a sentence.
        way_out: how it is given.
    """

    key: str
    what: str
    way_out: str

    def check(self, whole: Mapping[str, Any], where: str) -> None:
        """Refuse a recipe without it.

        Raises:
            SteppeError: it says none.
        """
        data = whole.get("data")
        if not (data.get(self.key) if isinstance(data, Mapping) else data):
            raise SteppeError(f"{where} must say {self.what}", got="none", way_out=self.way_out)


def validated(
    kind: type[Kind],
    data: Any,
    where: str,
    folder: Path | None,
    *,
    needed: Needed | None = None,
    explain: Explain = lambda error, where: None,
) -> Kind:
    """A recipe from plain data; with a ``base``, on top of that one (`steppe.experiment.base`).

    Args:
        kind: the recipe's class.
        data: the recipe.
        where: it was read, for messages.
        folder: where the path of a base starts.
        needed: what its data must say, base included.
        explain: see `Explain`.

    Raises:
        SteppeError: an unknown key (with the nearest), or a value of the wrong type.

    Example:
        >>> class Spec(BaseModel):
        ...     epochs: int
        >>> validated(Spec, {"epochs": 3}, "the recipe", None).epochs
        3
    """
    if not isinstance(data, Mapping):
        raise SteppeError(
            f"{where} must be a mapping",
            got=type(data).__name__,
            way_out="keys and values, as steppe recipes digits shows",
        )
    whole = base.whole(data, folder)
    if needed is not None:
        needed.check(whole, where)
    try:
        return kind.model_validate(whole)
    except ValidationError as error:
        raise explain(error, where) or refused(kind, error, where) from None
