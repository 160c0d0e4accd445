"""The record of a removal that was chosen without a walk that prunes."""

from __future__ import annotations

import hashlib
import time
from functools import cached_property
from typing import Any

from torch import Tensor

from steppe.engine.blockwise.journal import Journal
from steppe.llm import pruning_run
from steppe.llm.prepare import PreparedPruning
from steppe.methods import display_of
from steppe.record import stamped


class FreshRecord:
    """What is measured before anything is chosen, and the record that it becomes a part of.

    Nothing is read or written until it is asked for.

    Args:
        prepared: what is removed from which model.
        texts: on which perplexity is measured.
    """

    def __init__(self, prepared: PreparedPruning, texts: dict[str, Tensor]) -> None:
        self._prepared, self._texts = prepared, texts
        self._journal = Journal(prepared.out / "checkpoints" / "job.json")
        self._began = time.time() - float(self._journal.get("seconds", 0.0))
        self._measured: dict[str, dict[str, Any]] = {}

    @cached_property
    def stored(self) -> tuple[dict[str, int], str | None]:
        """Key -> numbers that are not zero; and the hash of all, where it is needed.

        Raises:
            SteppeError: a weight is no number.
        """
        known = bool(self._texts) and self._prepared.config.remember
        weights = hashlib.sha256() if known else None
        nonzero = self._prepared.check_finite(weights)
        return nonzero, weights.hexdigest() if weights is not None else None

    def check(self) -> None:
        """Read all weights once.

        Raises:
            SteppeError: one is no number.
        """
        assert self.stored

    def measure(self) -> None:
        """Perplexities of the originals, before anything is chosen."""
        self._measured = {
            which: pruning_run.perplexities(
                self._prepared,
                self._journal,
                which,
                self._texts,
                self.stored[1] if which == "dense" else None,
            )
            for which in self._prepared.originals
        }

    def keep_time(self) -> None:
        """The seconds so far, for a later start."""
        self._journal.put(seconds=time.time() - self._began)

    def of(self, rows: list[dict[str, Any]], notes: list[str], **more: Any) -> dict[str, Any]:
        """The record, in the keys of `steppe.llm.pruning_run`; `measure` was called before.

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
            self.stored[0],
        )
        completed = self._prepared.completed(plain | more, self._measured)
        return stamped(completed, display_of(self._prepared.method.name))
