"""A pruned model and the dense one that it was made from: what made it, and whether they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from steppe.record.origin import dense_of

_RECOVERED = ", recovered"
_LEAST_ZEROS = 0.01
"""The share of the prunable weights from which on a model that has no record counts as pruned."""


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
        """Which layers counted as prunable; all where blocks went, as numbers are new."""
        if any(made.get("removed", {}).get("blocks") for made in self._prunings):
            return {"include": (), "exclude": ()}
        return {key: tuple(self.recipe.get(key) or ()) for key in ("include", "exclude")}

    @property
    def display(self) -> str:
        """What a report calls the model that this folder holds."""
        shown = self.record.get("method_display")
        if shown is None and (method := self._pruning.get("method")) is not None:
            shown = display_of(str(method))  # from before records said it
        return "a pruned model" if shown is None else str(shown)

    @property
    def recovered(self) -> str:
        """What a report calls the recovered model."""
        return f"{self.display.removesuffix(_RECOVERED)}{_RECOVERED}"

    def then(self, method: str) -> str:
        """What a report calls the model that another method trained further.

        Args:
            method: its name.
        """
        return f"{self.display}, then {display_of(method)}"

    def structure(self, otherwise: Structure) -> Structure:
        """What its zeros have in common; the other one where nobody knows."""
        method = self._pruning.get("recipe", {}).get("method")
        if isinstance(method, Mapping) and "structure" in method:
            return Structure.make(method["structure"])
        return otherwise

    @property
    def _pruning(self) -> Mapping[str, Any]:
        """The record of what made the zeros, where the folder's own is of a recovery."""
        made: Mapping[str, Any] = self.record
        while made.get("pruning") and made["recipe"].get("recover"):
            made = made["pruning"]
        return made

    @cached_property
    def _prunings(self) -> list[Mapping[str, Any]]:
        """The records of what became zero or went, since the dense model; the latest first."""
        found, seen = list[Mapping[str, Any]](), {self.folder.resolve()}
        made: Mapping[str, Any] = self.record
        while made:
            while made.get("pruning"):  # since then it was recovered, or trained further
                made = made["pruning"]
            found.append(made)
            made = made.get("made_from") or self._made_of(made, seen)
        return found

    def _made_of(self, made: Mapping[str, Any], seen: set[Path]) -> Mapping[str, Any]:
        """The record of the model that a pruning began with, where it lies there still."""
        name = made.get("recipe", {}).get("model", {}).get("name")
        if not isinstance(name, str) or (folder := Path(name).resolve()) in seen:
            return {}  # another model lies where that one was
        seen.add(folder)
        return replace(self, folder=folder).record

    @property
    def is_cut(self) -> bool:
        """Whether something of the dense model is gone, so that its shapes are others."""
        return any("removed" in made for made in self._prunings)

    @property
    def gone(self) -> dict[str, Any]:
        """What the record of whatever is made of the folder says of what is gone from it."""
        made: Mapping[str, Any] = next(iter(self._prunings), {})
        keys = ("removed", "sparsity_reached", "sparsity_of_all")
        return {key: made[key] for key in keys} if "removed" in made else {}

    def places(self, blocks: int, of: int) -> list[int] | None:
        """Where each block was in the dense model; None where no record says it.

        Args:
            blocks: of the pruned model.
            of: blocks of the dense one.
        """
        kept, there = list(range(blocks)), blocks
        for made in self._prunings:
            if there == of:
                break
            gone = {int(n.rpartition(".")[2]) for n in made.get("removed", {}).get("blocks", [])}
            there += len(gone)
            stay = [i for i in range(there) if i not in gone]
            kept = [stay[i] for i in kept]
        return kept if there == of else None

    @cached_property
    def _first(self) -> PrunedPair:
        """That of the model which came from the dense one, however often it went on since.

        Raises:
            SteppeError: a model on the way is another one now.
        """
        known = dense_of(self.record)
        name = known.get("name")
        if self.dense is None and name is not None and Path(name).is_dir():
            older = replace(self, folder=Path(name))
            if older.is_pruned:
                self._check_unchanged(StreamedModel(str(name), "cpu"), known.get("fingerprint"))
                return older._first
        return self

    @property
    def dense_name(self) -> str | Path:
        """Where the dense model is, which the first pruning began with, whatever came after it.

        Raises:
            SteppeError: nothing says so, or it is not there any more.
        """
        first = self._first
        name = self.dense or dense_of(first.record).get("name")
        if name is None or (self.dense is None and not Path(name).is_dir()):
            never = "; a model that was never pruned is trained by steppe train"
            raise SteppeError(
                "what a pruned model was made from is needed",
                got=f"{first.folder} with no record of its pruning"
                if name is None
                else f"a record of the pruning of {name}, which is not there",
                way_out=self.way_out + never * (name is None and not first.is_pruned),
            )
        return str(name)

    def _check_unchanged(self, known: StreamedModel, wanted: str | None) -> None:
        if wanted is not None and fingerprint(known) != wanted:
            raise SteppeError(
                "what a model was pruned or trained from is still what it was then",
                got=f"{known.folder}, whose files have changed since",
                way_out=self.way_out,
            )

    def check(self, pruned: StreamedModel, dense: StreamedModel) -> None:
        """Whether the two differ in nothing but the values of their weights, and what is gone.

        Raises:
            SteppeError: in shapes or words they do, or the dense one's files are others now.
        """
        mine, other = (
            {n: tuple(p.shape) for n, p in m.model.named_parameters(remove_duplicate=False)}
            for m in (pruned, dense)
        )
        if pruned.vocabulary != dense.vocabulary:
            self._refuse_words(pruned, dense, f"{dense.vocabulary} tokens", pruned.vocabulary)
        if mine != other and not self.is_cut:
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
        if self.dense is None:
            known = dense_of(self._first.record)
            self._check_unchanged(dense, known.get("fingerprint"))

    def check_blocks(self, pruned: StreamedModel, dense: StreamedModel) -> list[int] | None:
        """Where each block was in the dense model, if shapes are others there; else None.

        Raises:
            SteppeError: the hidden states are of another width, or nobody knows which blocks went.
        """
        mine, other = ({n: p.shape for n, p in m.model.named_parameters()} for m in (pruned, dense))
        if mine == other:
            return None
        way_out = "--scope whole, which looks at the answers alone"
        if pruned.hidden_size != dense.hidden_size:
            raise SteppeError(
                "blocks are led back to hidden states of the dense model, of the same width",
                got=f"{pruned.hidden_size} in {pruned.folder}, {dense.hidden_size} in "
                f"{dense.folder}",
                way_out=way_out,
            )
        found = self.places(len(pruned), len(dense))
        if found is None:
            raise SteppeError(
                "blocks are led back to those that they were in the dense model",
                got=f"{len(pruned)} of {len(dense)} blocks, and no record that says which",
                way_out=way_out,
            )
        return found

    def check_zeros(self, pruned: StreamedModel, nonzero: Mapping[str, int]) -> None:
        """Whether there are zeros to keep, and no fewer than the folder's masks name.

        Where something was cut out there need be none.

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
        if self.is_cut:
            return
        total, there = sum(layer.numel for layer in pruned.layers()), sum(zeros.values())
        # any trained model has a few by rounding
        if not there or (not self.is_pruned and there < _LEAST_ZEROS * total):
            few = f"{there} of {total} weights and no record of a pruning"
            raise SteppeError(
                "a recovery trains what a pruned model has left, and keeps its zeros",
                got=f"{pruned.folder}, whose layers have {f'zeros in {few}' if there else 'none'}",
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
