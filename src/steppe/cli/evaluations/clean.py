"""Accuracy and loss of an image model on its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steppe.cli.evaluations import EVALUATIONS, Evaluation
from steppe.cli.experiment import clean
from steppe.cli.imagerun import ImageRun
from steppe.core.mask import count_zeros
from steppe.engine.batchnorm import reestimate
from steppe.vision.loader import Loader
from steppe.vision.models import logits


@EVALUATIONS.register("clean")
@dataclass(frozen=True, kw_only=True)
class Clean(Evaluation):
    """Accuracy and mean cross entropy of a run's weights.

    Args:
        part: test, validation or train.
        reestimate_bn: batch-norm statistics anew before measuring.
    """

    part: str = "test"
    reestimate_bn: bool = False

    def measure(self) -> dict[str, Any]:
        """Accuracy, loss and zeros, batch norm as stored or re-estimated."""
        run = ImageRun.read(self.run, self.device, "clean")
        model, recipe = run.model, run.recipe
        if self.reestimate_bn:
            loader = Loader.of(
                run.data, "train", recipe.train.batch_size, seed=recipe.seed, device=self.device
            )
            stream = loader.epoch(recipe.train.epochs)
            limit = range(max(recipe.train.bn_batches, 1))
            reestimate(model, (x for (x, _), _ in zip(stream, limit, strict=False)), logits)
        model.eval()
        zeros = count_zeros(dict(model.named_parameters()))
        held = {"part": self.part, "bn_reestimated": self.reestimate_bn, "zeros": zeros}
        return {**clean(model, run.loader(self.part)), **held}

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """Accuracy and loss."""
        how = ", batch norm re-estimated" if self.reestimate_bn else ""
        return f"accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f} on {self.part}{how}"
