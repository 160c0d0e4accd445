"""A pruned model and the dense one that it was made from: what made it, and whether they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.protocols import Structure
from steppe.engine.mask_keeper import read_masks
from steppe.llm.load import words_of
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import fingerprint
from steppe.methods import display_of


@dataclass(frozen=True)
class PrunedPair:
    """What is known of a pruned model's past.

    Args:
        folder: the pruned model.
        dense: folder or hub id of the dense one; None for the one that the folder's record names.
        way_out: of errors, where the dense one is not there or does not fit.
    """

    folder: Path
    dense: str | Path | None = None
    way_out: str = "--dense FOLDER, the model before it was pruned"

    @cached_property
    def record(self) -> dict[str, Any]:
        """Of the pruning that made the folder; empty where there is none."""
        try:
            record = json.loads((self.folder / "record.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        known = isinstance(record, dict) and isinstance(record.get("recipe"), dict)
        return record if known else {}

    @property
    def is_pruned(self) -> bool:
        """Whether its record, or masks beside it, say that it was pruned."""
        masks = any(self.folder.glob("masks*.safetensors"))
        return bool(self.record.get("sparsity_reached")) or (masks and not self.record)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Of that pruning."""
        then: Mapping[str, Any] = self.record.get("recipe", {})
        return then

    @property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        """Which layers counted as prunable."""
        return {key: tuple(self.recipe.get(key) or ()) for key in ("include", "exclude")}

    @property
    def display(self) -> str:
        """What a report calls the recovered model."""
        pruned_by = self._origin.get("method")
        shown = "a pruned model" if pruned_by is None else display_of(str(pruned_by))
        return f"{shown}, recovered"

    def structure(self, otherwise: Structure) -> Structure:
        """What its zeros have in common; the other one where nobody knows."""
        method = self._origin.get("recipe", {}).get("method")
        if isinstance(method, Mapping) and "structure" in method:
            return Structure.make(method["structure"])
        return otherwise

    @property
    def _origin(self) -> Mapping[str, Any]:
        """The record of the pruning itself, where the folder's own is of a recovery."""
        origin: Mapping[str, Any] = self.record
        while origin.get("pruning"):
            origin = origin["pruning"]
        return origin

    @property
    def _known(self) -> Mapping[str, Any]:
        """Name and fingerprint of the dense model, as the folder's run found it."""
        whole = self.recipe.get("recover")
        known = self.recipe.get("dense") or self.recipe.get("model") or {}
        if not isinstance(known, Mapping):
            return {}
        if isinstance(whole, Mapping) and known.get("teacher"):
            return {"name": known["teacher"], "fingerprint": whole.get("dense")}
        return known

    @property
    def dense_name(self) -> str | Path:
        """Where the dense model is.

        Raises:
            SteppeError: nothing says so, or it is not there any more.
        """
        name = self.dense or self._known.get("name")
        if name is None or (self.dense is None and not Path(name).is_dir()):
            raise SteppeError(
                "what a pruned model was made from is needed",
                got=f"{self.folder} with no record of its pruning"
                if name is None
                else f"a record of the pruning of {name}, which is not there",
                way_out=self.way_out,
            )
        return str(name)

    def check(self, pruned: StreamedModel, dense: StreamedModel) -> None:
        """Whether the two models differ in nothing but the values of their weights.

        Raises:
            SteppeError: in shapes or words they do, or the dense one's files are others now.
        """
        mine, other = (
            {n: tuple(p.shape) for n, p in m.model.named_parameters(remove_duplicate=False)}
            for m in (pruned, dense)
        )
        if pruned.vocabulary != dense.vocabulary:
            self._refuse_words(pruned, dense, f"{dense.vocabulary} tokens", pruned.vocabulary)
        if mine != other:
            names = sorted(n for n in {*mine, *other} if mine.get(n) != other.get(n))
            raise SteppeError(
                "the pruned and the dense model have the same weights but for their values",
                got=f"{names[0]} of {mine.get(names[0], 'no')} in {pruned.folder} and of "
                f"{other.get(names[0], 'no')} in {dense.folder}",
                way_out=self.way_out,
            )
        words = words_of(pruned.folder), words_of(dense.folder)
        if all(words) and words[0] != words[1]:
            self._refuse_words(pruned, dense, "a tokenizer", "another")
        wanted = self._known.get("fingerprint") if self.dense is None else None
        if wanted is not None and fingerprint(dense) != wanted:
            raise SteppeError(
                "the dense model is still the one that was pruned",
                got=f"{dense.folder}, whose files have changed since",
                way_out=f"--dense {dense.folder} if it is the right one all the same",
            )

    def check_zeros(self, pruned: StreamedModel, nonzero: Mapping[str, int]) -> None:
        """Whether there are zeros to keep, and no fewer than the folder's masks name.

        Args:
            pruned: the model.
            nonzero: tensor of its checkpoint -> how many of its numbers are not zero.

        Raises:
            SteppeError: there are none, or fewer.
        """
        sizes = {key: shape.numel() for key, (_, shape) in pruned.checkpoint.headers().items()}
        zeros = {
            layer.name: sum(sizes[key] - nonzero[key] for key in pruned.stored_keys(layer.name))
            for layer in pruned.layers()
        }
        masks = read_masks(pruned.folder) if any(pruned.folder.glob("masks*.safetensors")) else {}
        for name, mask in masks.items():
            named = mask.numel() - int(mask.count_nonzero())
            if zeros.get(name, named) < named:
                raise SteppeError(
                    "what the masks of a pruned model name is zero",
                    got=f"{named} in the masks of {pruned.folder} for {name}, {zeros[name]} zeros",
                    consequence="those that came back would stay",
                    way_out="recover the folder that the pruning wrote, or delete its masks*"
                    ".safetensors if the weights are right",
                )
        if not any(zeros.values()):
            raise SteppeError(
                "a recovery trains what a pruned model has left, and keeps its zeros",
                got=f"{pruned.folder}, whose layers have none",
                way_out="name the folder that steppe prune wrote; to train a dense model further: "
                "steppe train",
            )

    def _refuse_words(
        self, pruned: StreamedModel, dense: StreamedModel, theirs: object, mine: object
    ) -> None:
        raise SteppeError(
            "the dense model has the vocabulary of the pruned one",
            got=f"{theirs} in {dense.folder}, {mine} in {pruned.folder}",
            way_out=self.way_out,
        )
