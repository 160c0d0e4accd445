"""What a long job has done so far, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steppe.core.serialization import damaged, write_text
from steppe.engine import ranks

DONE_BEFORE = "done_before"
"""A key of a block's row where it is reported of a run that goes on; no record has it."""


class Journal:
    """A small dict in a JSON file, replaced whole at every change.

    Args:
        path: the file; read when it is there.

    Raises:
        SteppeError: the file is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        ranks.barrier()
        self._values: dict[str, Any] = {}
        if path.exists():
            self._values = _read(path)
        ranks.barrier()  # all have read before the first writes

    def get(self, key: str, default: Any = None) -> Any:
        """What was put under a key."""
        return self._values.get(key, default)

    def put(self, **values: Any) -> None:
        """Keep values, on disk when this returns."""
        self._values |= json.loads(json.dumps(values))
        if ranks.first():
            write_text(self.path, json.dumps(self._values) + "\n")
        ranks.barrier()


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from None
