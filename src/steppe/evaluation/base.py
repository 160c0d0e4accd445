"""What every measurement is, and the record that it may look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from steppe.core.errors import SteppeError


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A measurement of a folder; its fields are the flags it takes.

    Args:
        run: a run's or model's folder, or a hub id.
        device: where to measure.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions matter beside those of every record."""

    run: str
    device: str = "cpu"

    def check(self) -> None:
        """Whether the options can be measured with, as far as they say it themselves.

        Called before any of several measurements is begun.
        """

    def measure(self) -> dict[str, Any]:
        """The result, plain data."""
        raise NotImplementedError

    def holds(self, result: dict[str, Any]) -> bool:
        """Whether an earlier result is still of what these options name.

        Args:
            result: what `measure` gave with the same options.
        """
        return True

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """The result in a sentence.

        Args:
            result: what `measure` gave.
            record: the run's record.json; empty where there is none.
        """
        raise NotImplementedError


def read_record(run: str) -> dict[str, Any]:
    """The run's record.json, or nothing.

    Raises:
        SteppeError: there is one, but no JSON.
    """
    path = Path(run) / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise SteppeError(
            "a run's record.json must be JSON",
            got=f"{path} ({error})",
            way_out="restore it, or delete it to measure without the dense figures",
        ) from None
    return record if isinstance(record, dict) else {}
