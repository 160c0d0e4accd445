"""The record of a removal that was chosen without a walk that prunes."""

from __future__ import annotations

import hashlib
import time
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
        weights = hashlib.sha256() if texts and prepared.config.remember else None
        self._nonzero = prepared.check_finite(weights)
        known = weights.hexdigest() if weights is not None else None
        self._measured = {
            which: pruning_run.perplexities(
                prepared, self._journal, which, texts, known if which == "dense" else None
            )
            for which in prepared.originals
        }

    def keep_time(self) -> None:
        """The seconds so far, for a later start."""
        self._journal.put(seconds=time.time() - self._began)

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
        completed = self._prepared.completed(plain | more, self._measured)
        return stamped(completed, display_of(self._prepared.method.name))
