"""Seconds of what is done one stage after the other."""

from __future__ import annotations

import time


class LapTimes:
    """A stopwatch that runs on: each stage ends where the next one begins.

    Example:
        >>> laps = LapTimes()
        >>> laps.end("load")
        >>> laps.end("prune")
        >>> sorted(laps.row())
        ['all', 'load', 'prune']
    """

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """What was done since the last call was this; of one name all count."""
        now = time.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def row(self) -> dict[str, float]:
        """Stage -> seconds, and ``all``, for a row of the record."""
        every = self._seconds | {"all": sum(self._seconds.values())}
        return {stage: round(seconds, 4) for stage, seconds in every.items()}
