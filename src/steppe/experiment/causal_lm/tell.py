"""Lines for who waits for a training, from its first process alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from steppe.engine import ranks


def tell(lines: Iterable[str], quiet: bool = False) -> None:
    """Print lines on standard error, before a bar is drawn.

    Args:
        lines: without their ends.
        quiet: print nothing.
    """
    if not quiet and ranks.first():
        print("".join(f"{line}\n" for line in lines), end="", file=sys.stderr, flush=True)
