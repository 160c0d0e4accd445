"""What a seed may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from steppe.core.errors import SteppeError

MOST = 2**40
"""Seeds are multiplied with a million and must then fit into 64 bits."""
Seed = Annotated[int, Field(ge=-MOST, le=MOST)]
"""The type of a seed in a configuration that is read."""


def checked_seed(seed: int) -> int:
    """The seed, if random numbers can be drawn from it.

    Raises:
        SteppeError: it is too large.

    Example:
        >>> checked_seed(7)
        7
    """
    if not -MOST <= seed <= MOST:
        raise SteppeError(
            "a seed is a whole number of at most 40 bits",
            got=seed,
            way_out="a small one, such as 0",
        )
    return seed
