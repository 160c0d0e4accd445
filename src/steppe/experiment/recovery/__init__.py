"""What of a pruned model is recovered at a time: its blocks, or all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from steppe.core.registry import Registry
from steppe.llm.prepare import Report
from steppe.llm.recover_config import RecoverConfig


class PreparedRecovery(Protocol):
    """A recovery that is checked, with nothing long done yet."""

    def recover(self, report: Report) -> dict[str, Any]:
        """Run it; the record."""
        ...


SCOPES: Registry[Callable[[str | Path, RecoverConfig], PreparedRecovery]] = Registry(
    "scope of a recovery", __name__
)
"""Name -> what makes it ready; the files of this folder register."""
