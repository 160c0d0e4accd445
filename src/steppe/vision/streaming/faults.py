"""Errors of what a user gives, told in one line that names the item; errors of steppe's own stay.

What one process raises another one tells, so the line says where in the code it was.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from steppe.core.errors import SteppeError

_OWN, _NAME = Path(__file__).parents[2], __name__.partition(".")[0]


class Fault(SteppeError):
    """The code of a user's failed."""


@contextmanager
def of_user(thing: object) -> Iterator[None]:
    """Inside a thing is called that may be a user's: a dataset, an augmentation, a function.

    Args:
        thing: of a class of steppe it is none of the user's, and what it raises stays as it is.

    Raises:
        Fault: what was raised, in words. A `SteppeError` stays, and so does a MemoryError: that is
            of the machine.

    Example:
        >>> with of_user({}):
        ...     {}["image"]
        Traceback (most recent call last):
        steppe.vision.streaming.faults.Fault: code of yours must not fail; got KeyError: ...
    """
    try:
        yield
    except (SteppeError, MemoryError):
        raise
    except Exception as error:
        if type(thing).__module__.partition(".")[0] == _NAME:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        raise Fault(
            "code of yours must not fail",
            got=f"{type(error).__name__}: {text}; {Path(where.filename).name}, line {where.lineno}",
        ) from error


@contextmanager
def naming(describe: Callable[[], str]) -> Iterator[None]:
    """Name the item at which the code of a user's fails inside.

    Args:
        describe: the item in words; called only where something fails.

    Raises:
        SteppeError: of a `Fault`; whatever else is raised stays as it is.

    Example:
        >>> with naming(lambda: "item 3 of train"), of_user({}):
        ...     {}["image"]
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: every item of a dataset must be readable; got item 3 of ...
    """
    try:
        yield
    except Fault as fault:
        raise SteppeError(
            "every item of a dataset must be readable",
            got=f"{describe()} ({fault.got})",
            way_out="mend or leave out that item, or what is done to it",
        ) from fault


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Inside an image is decoded, by Pillow.

    Args:
        name: of the image.

    Raises:
        SteppeError: it cannot be. What a line of steppe itself raises stays as it is, and so does a
            MemoryError.

    Example:
        >>> from PIL import Image
        >>> with decoding("a.png"):
        ...     Image.open("no/such/a.png")
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: every image must be one that PIL can decode; got a.png ...
    """
    try:
        yield
    except (SteppeError, MemoryError):
        raise
    except Exception as error:  # OSError, SyntaxError, struct.error and more
        where = traceback.extract_tb(error.__traceback__)[-1]
        if Path(where.filename).is_relative_to(_OWN):
            raise
        raise SteppeError(
            "every image must be one that PIL can decode",
            got=f"{name} ({type(error).__name__}: {str(error)[:200]})",
            way_out="remove or replace that image",
        ) from error
