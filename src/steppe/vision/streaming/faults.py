"""Any error of one item of a dataset, told in one line that names it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from steppe.core.errors import SteppeError


@contextmanager
def naming(describe: Callable[[], str]) -> Iterator[None]:
    """Of what is read or changed inside, name the item where that fails.

    A dataset or a transform of the user's may raise anything. What one process raises another one
    tells, so the line says where in the code it was.

    Args:
        describe: the item in words; called only where something fails.

    Raises:
        SteppeError: what was raised, in words; one that is raised inside stays as it is.

    Example:
        >>> with naming(lambda: "item 3 of train"):
        ...     {}["image"]
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: every item of a dataset must be readable; got item 3 of ...
    """
    try:
        yield
    except SteppeError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        raise SteppeError(
            "every item of a dataset must be readable",
            got=f"{describe()} ({type(error).__name__}: {text}; "
            f"{Path(where.filename).name}, line {where.lineno})",
            way_out="mend or leave out that item, or what is done to it",
        ) from error
