"""Names that may be a folder here or an id of the hub, and the hub's lines about retries."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

from steppe.core.errors import SteppeError

_LOG = logging.getLogger("huggingface_hub")


def nearest(path: Path, kind: Callable[[Path], bool] = Path.is_dir) -> str:
    """What was meant by a path that is not there: names beside it, for a way out.

    Args:
        path: of a folder or file.
        kind: what was meant, e.g. ``Path.is_file``.

    Returns:
        A question with a space behind it; "" where nothing beside it has a name like that, or
        the path is there.

    Example:
        >>> nearest(Path("no/such/folder"))
        ''
    """
    if path.expanduser().exists():
        return ""
    try:
        beside = [one.name for one in path.expanduser().parent.iterdir() if kind(one)]
    except OSError:
        return ""
    shown = [name for name in beside if not name.startswith(".")]
    near = get_close_matches(path.name, shown, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}? " if near else ""


def is_hub_id(name: str) -> bool:
    """Whether only the hub can know a name: ``owner/name``, and no folder here is the owner.

    Args:
        name: no path that exists.

    Example:
        >>> is_hub_id("org/model"), is_hub_id("./model"), is_hub_id("a/b/c"), is_hub_id("name")
        (True, False, False, False)
    """
    looks = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
    return looks and not Path(name).parent.is_dir()


def absent(name: str, rule: str, way_out: str) -> SteppeError:
    """The error for a path that is not there, to be raised by the caller.

    Args:
        name: the path.
        rule: what must be there.
        way_out: what else helps than a name near to it.
    """
    owner, _, rest = name.partition("/")
    hub = re.fullmatch(r"\w[\w.-]*", owner) and rest and "/" not in rest
    why = f"beside the folder {owner}/ it is a path, and no id of the hub" if hub else ""
    return SteppeError(rule, got=name, consequence=why, way_out=nearest(Path(name)) + way_out)


@contextlib.contextmanager
def silent_retries() -> Iterator[None]:
    """No line for each try to reach the hub: the error says it once."""
    level = _LOG.level
    _LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _LOG.setLevel(level)
