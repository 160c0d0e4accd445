"""What a long job has done so far, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steppe.core.serialization import write_text
from steppe.engine import ranks


class Journal:
    """A small dict in a JSON file, replaced whole at every change.

    Args:
        path: the file; read when it is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        ranks.barrier()
        found = path.exists()
        self._held: dict[str, Any] = json.loads(path.read_text("utf-8")) if found else {}
        ranks.barrier()  # all have read before the first writes

    def get(self, key: str, default: Any = None) -> Any:
        """What was put under a key."""
        return self._held.get(key, default)

    def put(self, **values: Any) -> None:
        """Keep values, on disk when this returns."""
        self._held |= json.loads(json.dumps(values))
        if ranks.first():
            write_text(self.path, json.dumps(self._held) + "\n")
        ranks.barrier()
