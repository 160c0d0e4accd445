"""The record of a whole training: the keys of steppe prune's, and those of steppe train's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.courtesy import Decoration
from steppe.core.protocols import Structure
from steppe.core.prunable import prunable
from steppe.engine.run_folder import versions
from steppe.engine.step.finished import advice
from steppe.engine.trainer import Outcome
from steppe.experiment.causal_lm.originals import Originals
from steppe.experiment.causal_lm.recipe import LanguageRecipe
from steppe.experiment.causal_lm.start_zeros import StartZeros
from steppe.llm.said import (
    gain_of,
    left_as_it_was,
    packed_bytes,
    quality_of,
    versions_of_formats,
)
from steppe.llm.whole_training.folder import LanguageFolder, layer_rows
from steppe.llm.whole_training.prepared import DenseModel
from steppe.method import Method

DEAR = 1.02
"""From this rise of the perplexity on, the record says what the last projection cost."""


def zeros_in(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Name -> how many entries are exactly zero.

    Example:
        >>> zeros_in({"a": torch.tensor([0.0, 1.0])})
        {'a': 1}
    """
    return {n: w.numel() - int(torch.count_nonzero(w)) for n, w in weights.items()}


@dataclass(frozen=True)
class Before:
    """What the model was, counted before anything was changed.

    Args:
        start: the zeros in its prunable weights.
        nonzero: parameters of the whole model that are not zero.
        parameters: of the whole model; a tied one counts once.
    """

    start: StartZeros
    nonzero: int
    parameters: int

    @classmethod
    def of(cls, model: nn.Module, include: tuple[str, ...], exclude: tuple[str, ...]) -> Before:
        """Count; see `steppe.prunable` for the patterns."""
        every = dict(model.named_parameters())
        parameters = sum(p.numel() for p in every.values())
        start = StartZeros.of(*prunable(model, include, exclude))
        return cls(start, parameters - sum(zeros_in(every).values()), parameters)


def dear(before: float | None, after: float | None) -> bool:
    """Whether the last projection cost much: perplexities before and after it."""
    return before is not None and after is not None and after >= DEAR * before


def projection_notes(outcome: Outcome, method: Method) -> list[str]:
    """What to say when the last projection cost perplexity: weights and sparse copy had not met.

    Args:
        outcome: of the training.
        method: of the run.
    """
    if not (outcome.before and outcome.after):
        return []
    before, after = (at["perplexity"] for at in (outcome.before, outcome.after))
    if not dear(before, after) or outcome.finished.distance == 0.0:
        return []
    return [
        f"the last projection raised the perplexity from {before:.2f} to {after:.2f} and moved the "
        f"weights by {outcome.finished.distance:.1%}; way out: {advice(method)}"
    ]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A training that is over, and what its record says of it.

    Args:
        recipe: of the run.
        start: the files of the model that was trained.
        before: of that model.
        originals: what was there before.
        found: of them, see `Originals.found`.
        outcome: of the training.
        state: every parameter as it is written.
        said: of the text that was trained on.
        conditions: device, precision, processes, tokens.
        structure: what the zeros have in common.
    """

    recipe: LanguageRecipe
    start: DenseModel
    before: Before
    originals: Originals
    found: dict[str, Any]
    outcome: Outcome
    state: Mapping[str, Tensor]
    said: dict[str, Any]
    conditions: dict[str, Any]
    structure: Structure

    def record(self, sparse: dict[str, Any], folder: LanguageFolder | None) -> dict[str, Any]:
        """Everything that is known when the folder is written.

        Args:
            sparse: text -> perplexity of the result; empty where it could not be measured.
            folder: that was written, if one was.
        """
        method, outcome, source = self.recipe.build_method(), self.outcome, self.start.source
        done, masks = outcome.finished, outcome.finished.masks
        rows = layer_rows(source, self.state, masks, self.before.start.zeros)
        total = max(sum(m.numel() for m in masks.values()), 1)
        zeros = sum(zeros_in({n: self.state[n] for n in masks}).values())
        nonzero = self.before.parameters - self._zeros_of_all()
        record = {
            "method": method.name,
            "recipe": self.recipe.plain(),
            "parts": method.to_dict(),
            "sparsity_asked": method.sparsity,
            "sparsity_before": sum(self.before.start.zeros.values()) / total,
            "sparsity_reached": zeros / total,
            "sparsity_of_all": 1 - nonzero / self.before.parameters,
            "dense": {
                "parameters": self.before.parameters,
                "nonzero": self.before.nonzero,
                "bytes": source.checkpoint.bytes,
            },
            "before_projection": outcome.before,
            "sparse": quality_of(sparse)
            | {"parameters": self.before.parameters, "nonzero": nonzero}
            | ({"bytes": folder.written} if folder is not None else {}),
            "projection_distance": done.distance,
            "zeros_before_projection": done.zeros_before,
            "units_zeroed": done.units_zeroed,
            "units": done.units,
            "blocks": rows,
            "coupling": outcome.coupling,
            "metrics": outcome.metrics,
            "data": self.said,
            **self.conditions,
            "seconds": round(outcome.seconds, 3),
            "peak_memory_bytes": outcome.peak_memory,
            "seed": self.recipe.seed,
            "versions": versions() | versions_of_formats(),
            "fallbacks": left_as_it_was(source, None if folder is None else folder.path),
            "notes": [
                *outcome.notes,
                *self.before.start.after(self.state),
                *projection_notes(outcome, method),
            ],
        }
        return self.originals.in_record(record, self.found)

    def _zeros_of_all(self) -> int:
        """Zeros in the whole model; a tied parameter counts once, as in `Before`."""
        seen = {t.data_ptr(): t for t in self.state.values() if t.numel()}
        held = {n: t for n, t in self.state.items() if seen.get(t.data_ptr()) is t}
        known = dict(self.start.source.model.named_parameters(remove_duplicate=False))
        return sum(zeros_in({n: t for n, t in held.items() if n in known}).values())

    def decorations(self) -> dict[str, Decoration]:
        """What is computed once the record is kept."""
        return {"the gain": self._gain}

    def _gain(self, record: dict[str, Any]) -> None:
        written = record["sparse"].get("bytes")
        if written is None:
            return
        if not record["sparsity_reached"] and self.structure.removes is None:
            record["gain"] = "Gain: none; nothing was pruned."
            return
        packed = packed_bytes(self.start.source.stored_dtype, record["blocks"], written)
        record["sparse"]["bytes_packed"] = packed
        record["gain"] = gain_of(self.structure, written, packed)
