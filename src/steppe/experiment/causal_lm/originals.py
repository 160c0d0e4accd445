"""The models that were there before a training: what it starts from, and the dense one of that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.engine.sharding import shard
from steppe.engine.trainer import Trainer
from steppe.experiment.causal_lm.tell import tell
from steppe.llm.pruned_pair import PrunedPair
from steppe.llm.said import quality_of
from steppe.llm.whole_training.prepared import DenseModel, Measure

DENSE, PRUNED = "dense", "pruned"
"""The roles of a model before the training; the dense one alone where nothing was pruned."""
Found = dict[str, Any]
Taught = tuple[nn.Module | None, str | None]


@dataclass
class Originals:
    """What a training starts from and, where that was pruned, the dense model that it was made of.

    Args:
        start: what is trained.
        pair: what is known of its past.
        pruned: whether it has one.
    """

    start: DenseModel
    pair: PrunedPair
    pruned: bool

    @cached_property
    def dense(self) -> DenseModel:
        """The dense model: of a pruned one that which it was made from, however long ago.

        Raises:
            SteppeError: it is not there any more, or another one, or nobody knows which it was.
        """
        if not self.pruned:
            return self.start
        dense = DenseModel(str(self.pair.dense_name))
        self.pair.check(self.start.source, dense.source)
        return dense

    @cached_property
    def missing(self) -> str:
        """Why the dense model cannot be measured, for the record; "" where it can."""
        try:
            _ = self.dense
        except SteppeError as error:
            why = error.rule if error.got is None else f"{error.rule}; got {error.got}"
            return (
                f"no quality of the dense model was measured: {why}. Way out: put it back and give "
                "another --out; or measure it where it is: steppe evaluate DENSE --on perplexity "
                "--text FILE"
            )
        return ""

    def load(self) -> nn.Module:
        """The dense model in float32, in eval mode, not trained."""
        return self.dense.load().eval().requires_grad_(False)

    def found(self, trainer: Trainer, measure: Measure, teacher: Taught, split: bool) -> Found:
        """What can be measured before the training.

        The dense model of a pruned one is a copy of the weights beside them, while there are no
        gradients yet, which take as much.

        Args:
            trainer: of the start, before its first step.
            measure: of perplexities.
            teacher: a network that is loaded, and its folder; None for the dense model's.
            split: whether the networks are split over the processes.

        Returns:
            ``texts``: role -> text -> perplexity; of the dense model of a pruned one ``sizes``, or
            why it is ``missing``.
        """
        if measure.names:
            tell(["measuring the perplexity before the training"], trainer.quiet)
        trainer.evaluate()
        texts = {PRUNED if self.pruned else DENSE: dict(measure.last)}
        if not self.pruned or self.missing:
            return {"texts": texts, "sizes": {}, "missing": self.missing}
        source, device = self.dense.source, trainer.accelerator.device
        nonzero = source.checkpoint.check_finite()  # reads its files once
        sizes = {
            "parameters": sum(p.numel() for p in source.model.parameters()),
            "nonzero": sum(nonzero[key] for key in source.stored_keys()),
            "bytes": source.checkpoint.bytes,
        }
        if texts[PRUNED]:
            model, name = teacher
            if model is None or name not in (None, str(source.folder)):
                model = self.load()
                if split:
                    shard(model, source.names, device)
            with torch.no_grad():
                measure(model.to(device))
            texts[DENSE] = dict(measure.last)
        return {"texts": texts, "sizes": sizes, "missing": ""}

    def in_record(self, record: dict[str, Any], found: Found) -> dict[str, Any]:
        """A record with the figures of all models: ``dense``, of a pruned one ``pruned`` too.

        Args:
            record: whose ``dense`` has the sizes of the start alone.
            found: see `found`.
        """
        start, texts = record["dense"], found["texts"]
        if not self.pruned:
            return record | {"dense": quality_of(texts[DENSE]) | start}
        sizes = found["sizes"] or {"parameters": start["parameters"]}
        return record | {
            "method_display": self.pair.then(record["method"]),
            "dense": quality_of(texts.get(DENSE, {})) | sizes,
            "pruned": quality_of(texts[PRUNED]) | start,
            "pruning": self.pair.record,
            "notes": [*record["notes"], *filter(None, [found["missing"]])],
        }
