"""The loss of each image, whether it is right, and the direction in which it gets worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.errors import SteppeError
from steppe.robustness.straight_through import Followed

Logits = Callable[[nn.Module, Tensor], Any]

SATURATED = 1e-6
"""Cross entropy below which float32 has lost 1 - p of the label, and with it the direction."""
LEVEL = 1e-2
"""Scores less than this apart: the cross entropy sees the mean of the others, not the best."""
_USUAL = (1e-12, 1e12)  # lengths of a gradient outside are lost when squared


class Judged(NamedTuple):
    """What a network makes of images, ``[n]`` each but the gradient.

    Args:
        loss: cross entropy.
        right: whether the network is right.
        gradient: in the pixels, ``[n, c, h, w]``.
        vanishes: whether the gradient is zero, below the smallest normal number or NaN.
        lost: whether it vanishes or may not be the direction in which the scores change.
    """

    loss: Tensor
    right: Tensor
    gradient: Tensor
    vanishes: Tensor
    lost: Tensor


class ImageLoss:
    """Cross entropy of each image, whether it is right, and the gradient in the pixels.

    Args:
        model: what is attacked.
        labels: ``[n]``, whole numbers.
        logits: how to call the model.
    """

    def __init__(self, model: nn.Module, labels: Tensor, logits: Logits) -> None:
        self.model, self.labels, self.logits = model, _whole(labels), logits

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and whether it is right, ``[n]`` each, without a gradient."""
        with torch.no_grad():
            return self.judge(self.scores(images))

    def of(self, index: Tensor) -> ImageLoss:
        """The same for some of the images."""
        return ImageLoss(self.model, self.labels[index], self.logits)

    def scores(self, images: Tensor) -> Tensor:
        """A number per class ``[n, classes]``, float32.

        Raises:
            SteppeError: the network gives something else, or a label is none of its classes.
        """
        with Followed() as followed:
            output = self.logits(self.model, images)
        if isinstance(output, Tensor) and output.numel() == len(images):
            output = followed.scores(output)  # of a sigmoid 1/2 decides, of its score 0
        return self._checked(class_scores(output), len(images))

    def _checked(self, scores: Tensor, count: int) -> Tensor:
        low, high = (int(v) for v in torch.aminmax(self.labels))
        if len(scores) != count or low < 0 or high >= scores.shape[1]:
            raise SteppeError(
                "an attack needs scores of each image and labels from 0 to classes - 1",
                got=f"scores {list(scores.shape)} of {count} images, labels {low} to {high}",
                way_out="number the classes from 0; a single score is of class 1 against class 0",
            )
        return scores

    def with_gradient(self, images: Tensor) -> Judged:
        """Loss, whether right, the loss's gradient, whether it vanishes, and whether it is lost.

        It is lost where the loss is below `SATURATED`, all scores are within `LEVEL`, or the
        gradient vanishes, see `usable`.
        """
        images = images.detach().requires_grad_(True)
        try:
            with torch.enable_grad():
                scores = self.scores(images)
                loss, right = self.judge(scores)
                gradient = _gradient(loss, images)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            # without a gradient it runs: what the forward does is for numbers only (numpy, ...)
            with torch.no_grad():
                scores = self.scores(images.detach())
                loss, right = self.judge(scores)
            gradient = torch.zeros_like(images)
        gradient, vanishes = usable(gradient)
        lost = vanishes | (loss < SATURATED) | (scores.amax(1) - scores.amin(1) < LEVEL)
        if are_probabilities(scores):
            lost |= scores.amax(1) > 1 - SATURATED
        return Judged(loss.detach(), right, gradient, vanishes, lost)

    def margins(self, images: Tensor, *, through: bool = False) -> Tensor:
        """Best other score less the label's, ``[n]``; above 0 the image is wrong.

        The direction of its gradient does not depend on how large scores are. Compared is what the
        network has before a softmax, an argmax or a rounding at its end, so nothing saturates.

        Args:
            images: ``[n, c, h, w]``.
            through: gradients pass straight through rounding and the like.
        """
        with Followed(through=through) as followed:
            output = self.logits(self.model, images)
        return self._margin(self._checked(class_scores(followed.scores(output)), len(images)))

    def margin_gradient(self, images: Tensor, *, through: bool = False) -> Judged:
        """As `with_gradient`, with the gradient of `margins`."""
        loss, right = self(images)
        images = images.detach().requires_grad_(True)
        try:
            with torch.enable_grad():
                gradient = _gradient(self.margins(images, through=through), images)
        except (RuntimeError, IndexError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            gradient = torch.zeros_like(images)
        gradient, vanishes = usable(gradient)
        return Judged(loss, right, gradient, vanishes, lost=vanishes)

    def _margin(self, scores: Tensor) -> Tensor:
        if are_probabilities(scores):
            scores = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        own = F.one_hot(self.labels, scores.shape[1]).bool()
        best_other = scores.masked_fill(own, -torch.inf).amax(1)
        return best_other - scores.gather(1, self.labels[:, None])[:, 0]

    def judge(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and whether right, ``[n]`` each, of scores; NaN is no right answer."""
        loss = F.cross_entropy(scores, self.labels, reduction="none")
        # argmax takes NaN for the largest, but NaN is no answer
        right = (scores.argmax(1) == self.labels) & ~scores.isnan().any(1)
        return loss, right


def class_scores(output: Any) -> Tensor:
    """A network's output as ``[n, classes]``, float32; a single score as two.

    A single score z is that of class 1 against class 0: ``(0, z)``.

    Raises:
        SteppeError: it is no tensor, holds decisions instead of scores, or one per pixel.

    Example:
        >>> class_scores(torch.tensor([[2.0], [-1.0]])).tolist()
        [[0.0, 2.0], [0.0, -1.0]]
    """
    if not isinstance(output, Tensor):
        raise _no_scores(f"a {type(output).__name__}", "return the tensor of scores, e.g. .logits")
    whole_numbers = not output.is_floating_point()
    if output.ndim == 0 or (whole_numbers and output[0].numel() == 1):
        kind = str(output.dtype).removeprefix("torch.")
        shape = f"{kind} {list(output.shape)}"
        raise _no_scores(shape, "return what stands before the argmax, for a batch of images")
    flat = output.float().flatten(1) if output.ndim > 1 else output.float()[:, None]
    if output.ndim > 2 and flat.shape[1] != output.shape[1]:
        raise _no_scores(f"shape {list(output.shape)}", "one row of scores for each image")
    if flat.shape[1] != 1:
        return flat
    return torch.cat([torch.zeros_like(flat), flat], 1)


def are_probabilities(scores: Tensor) -> bool:
    """Whether every row is one of probabilities.

    Example:
        >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.ones(1, 2))
        (True, False)
    """
    values = scores.detach()
    return bool((values >= 0).all() and ((values.sum(1) - 1).abs() < 1e-3).all())


def usable(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """A gradient without NaN and of a length that can be squared; and where it vanishes.

    Args:
        gradient: ``[n, ...]``, a row per image.

    Returns:
        The gradient, unchanged where it is as usual; whether all of an image's values are zero,
        NaN or below the smallest normal number, ``[n]``.
    """
    clean = gradient.nan_to_num(nan=0.0)
    most = clean.flatten(1).abs().amax(1)
    vanishes = most < torch.finfo(torch.float32).tiny
    unusual = ((most < _USUAL[0]) | (most > _USUAL[1])) & (most > 0)
    if bool(unusual.any()):
        shape = (-1, *[1] * (gradient.ndim - 1))
        clean = torch.where(unusual.view(shape), clean / most.view(shape), clean)
    return clean, vanishes


def _gradient(value: Tensor, images: Tensor) -> Tensor:
    """Of the sum, in the pixels; zero where the value does not depend on them by derivatives."""
    if not value.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(value.sum(), images, materialize_grads=True)
    return gradient


def _whole(labels: Tensor) -> Tensor:
    """Labels as cross entropy takes them; those of a binary network may be stored as floats."""
    whole = labels.long().flatten()
    if not torch.equal(whole.to(labels.dtype), labels.flatten()):
        raise SteppeError("labels are whole numbers, one per image", got=f"{labels.dtype} values")
    return whole


def _no_scores(got: str, way_out: str) -> SteppeError:
    return SteppeError(
        "an attack needs scores per class, [n, classes], or one per image", got=got, way_out=way_out
    )
