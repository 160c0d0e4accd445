"""The record of a removal that was chosen without a walk that prunes."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from steppe.engine.blockwise.journal import Journal
from steppe.llm import pruning_run
from steppe.llm.prepare import PreparedPruning
from steppe.methods import display_of
from steppe.record import stamped


class FreshRecord:
    """What is measured before anything is chosen, and the record that it becomes a part of.

    Args:
        prepared: what is removed from which model.
        texts: on which perplexity is measured.
    """

    def __init__(self, prepared: PreparedPruning, texts: dict[str, Tensor]) -> None:
        self._prepared = prepared
        self._journal = Journal(prepared.out / "checkpoints" / "job.json")
        self._began = time.time() - float(self._journal.get("seconds", 0.0))
        self._parts: dict[str, float] = dict(self._journal.get("parts", {}))
        self._part, self._since = "", 0.0
        weights = hashlib.sha256() if texts and prepared.config.remember else None
        self._nonzero = prepared.check_finite(weights)
        known = weights.hexdigest() if weights is not None else None
        self._measured = {
            which: pruning_run.perplexities(
                prepared, self._journal, which, texts, known if which == "dense" else None
            )
            for which in prepared.originals
        }

    @contextlib.contextmanager
    def counted(self, part: str) -> Iterator[None]:
        """What is done meanwhile is a part of the pruning of which no row has the time.

        Args:
            part: what the record calls it.
        """
        assert not self._part, "one part at a time"
        self._part, self._since = part, time.perf_counter()
        try:
            yield
        finally:
            self._count()
            self._part = ""
        self.keep_time()

    def _count(self) -> None:
        """The time of the part at work, so far."""
        if self._part:
            now = time.perf_counter()
            self._parts[self._part] = self._parts.get(self._part, 0.0) + now - self._since
            self._since = now

    def keep_time(self) -> None:
        """The seconds so far, for a later start."""
        self._count()
        self._journal.put(seconds=time.time() - self._began, parts=self._parts)

    def of(self, rows: list[dict[str, Any]], notes: list[str], **more: Any) -> dict[str, Any]:
        """The record, in the keys of `steppe.llm.pruning_run`.

        Args:
            rows: of blocks, as a walk gives them; none where there was no such walk.
            notes: sentences on what was found on the way.
            more: what else is known, in place of what rows would say.
        """
        self.keep_time()
        plain = pruning_run.record_of(
            self._prepared,
            rows,
            [*self._prepared.notes, *notes],
            self._measured["dense"],
            time.time() - self._began,
            self._nonzero,
        )
        spent = dict(plain["seconds_by_part"])
        for part, seconds in (*self._parts.items(), ("all", sum(self._parts.values()))):
            spent[part] = round(spent.get(part, 0.0) + seconds, 4)
        more = {"seconds_pruning": round(spent["all"], 3), "seconds_by_part": spent} | more
        completed = self._prepared.completed(plain | more, self._measured)
        return stamped(completed, display_of(self._prepared.method.name))
