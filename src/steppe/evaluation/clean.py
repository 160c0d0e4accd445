"""Accuracy, loss and calibration of an image model on its data."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from steppe.core.mask import count_zeros
from steppe.engine.step.batchnorm import reestimate
from steppe.evaluation import EVALUATIONS, Evaluation, read_record
from steppe.experiment.image_run import ImageRun
from steppe.robustness.calibration_error import calibration_error, class_accuracy, disagreement
from steppe.vision.loader import Loader
from steppe.vision.models import logits

SHOWN = 12  # examples that are kept with their picture


@EVALUATIONS.register("clean")
@dataclass(frozen=True, kw_only=True)
class Clean(Evaluation):
    """Accuracy, loss and calibration of a run's weights, class by class.

    Args:
        part: test, validation or train.
        reestimate_bn: batch-norm statistics anew before measuring.
        beside: another run on the same images, usually the dense one, to tell on which examples
            the two disagree.
    """

    part: str = "test"
    reestimate_bn: bool = False
    beside: str | None = None

    def measure(self) -> dict[str, Any]:
        """Accuracy, loss, calibration error, classes; where the other run disagrees."""
        run = ImageRun.read(self.run, self.device, "clean")
        other = run.beside(self.beside, self.part) if self.beside is not None else None
        if self.reestimate_bn:
            recipe = run.recipe
            loader = Loader.of(
                run.data, "train", recipe.train.batch_size, seed=recipe.seed, device=self.device
            )
            stream = loader.epoch(recipe.train.epochs)
            limit = range(max(recipe.train.bn_batches, 1))
            reestimate(run.model, (x for (x, _), _ in zip(stream, limit, strict=False)), logits)
        run.model.eval()
        answers, labels = _answers(run, self.part)
        right = answers.argmax(1) == labels
        return {
            "accuracy": int(right.sum()) / len(labels),
            "loss": float(F.cross_entropy(answers, labels, reduction="sum")) / len(labels),
            "calibration_error": calibration_error(answers, labels),
            "class_accuracy": class_accuracy(answers, labels),
            **({} if other is None else self._beside(other, answers, labels, run)),
            "part": self.part,
            "bn_reestimated": self.reestimate_bn,
            "zeros": count_zeros(dict(run.model.named_parameters())),
        }

    def _beside(
        self, other: ImageRun, answers: Tensor, labels: Tensor, run: ImageRun
    ) -> dict[str, Any]:
        theirs, _ = _answers(other, self.part)
        change = disagreement(theirs, answers, labels)
        read = run.images(self.part).read
        examples = [
            {
                "index": i,
                "label": int(labels[i]),
                "beside": int(theirs[i].argmax()),
                "run": int(answers[i].argmax()),
                "sure": float(answers[i].softmax(0).max()),
                "image": picture(read(slice(i, i + 1))[0]),
            }
            for i in change.examples[:SHOWN]
        ]
        return {
            "beside": {
                "run": self.beside,
                "method": read_record(str(self.beside)).get("method", "dense"),
                "accuracy": float((theirs.argmax(1) == labels).double().mean()),
                "disagree": change.share,
                "lost": change.lost,
                "won": change.won,
                "worst_class": change.worst_class,
                "worst_drop": change.worst_drop,
                "lost_examples": change.examples,
                "examples": examples,
            }
        }

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """Accuracy, loss, calibration; the worst class against the other run."""
        how = ", batch norm re-estimated" if self.reestimate_bn else ""
        text = (
            f"accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f}, "
            f"calibration error {result['calibration_error']:.4f} on {self.part}{how}"
        )
        beside = result.get("beside")
        if beside is None:
            return text
        return (
            f"{text}; beside {beside['run']} ({beside['accuracy']:.2%}): {beside['disagree']:.2%} "
            f"answered otherwise, {beside['lost']:.2%} lost, {beside['won']:.2%} won, class "
            f"{beside['worst_class']} {-beside['worst_drop']:+.2%}"
        )


@torch.no_grad()
def _answers(run: ImageRun, part: str) -> tuple[Tensor, Tensor]:
    """Logits ``[n, classes]`` and labels ``[n]``, in float32, on the host."""
    pairs = [(logits(run.model, x).float().cpu(), y.cpu()) for x, y in run.loader(part).epoch(0)]
    answers, labels = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
    return answers, labels


def picture(image: Tensor) -> str:
    """A ``data:`` address that holds an image as PNG.

    Args:
        image: ``[c, h, w]`` in [0, 1], one channel or three.

    Example:
        >>> picture(torch.zeros(1, 2, 2))[:22]
        'data:image/png;base64,'
    """
    from PIL import Image

    levels = (image.cpu() * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.squeeze(levels, 2) if levels.shape[2] == 1 else levels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
