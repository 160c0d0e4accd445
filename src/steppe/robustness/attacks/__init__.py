"""Adversarial attacks on pixels, each image with its own budget; here: PGD."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry
from steppe.robustness.corruptions import check_images
from steppe.robustness.draws import Draws
from steppe.robustness.image_loss import ImageLoss, Logits
from steppe.robustness.second_look import Prober, SecondLook, Worst
from steppe.robustness.surface import evaluating, finite

ATTACKS: Registry[type[Attack]] = Registry("attack", "steppe.robustness.attacks")
NORMS: Registry[type[Ball]] = Registry("norm", "steppe.robustness.attacks")


class Normalised(nn.Module):
    """The network with its normalisation inside, so that an attack moves pixels.

    ``model((x - mean) / std)``

    Args:
        model: takes normalised images.
        mean: one number per channel.
        std: one number per channel.

    Example:
        >>> net = Normalised(nn.Flatten(), [0.5], [0.5])
        >>> net(torch.ones(1, 1, 1, 1)).tolist()
        [[1.0]]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.model((x - self.mean) / self.std)
        return output


class Ball:
    """A norm ball: direction of a step, projection, random start."""

    order: ClassVar[float]
    """p of the p-norm."""

    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction of unit norm in which a loss of this gradient climbs most."""
        raise NotImplementedError

    def project(self, moved: Tensor, eps: Tensor) -> Tensor:
        """The nearest perturbation of norm at most eps ``[n, 1, 1, 1]``."""
        raise NotImplementedError

    def start(self, draws: Draws, shape: tuple[int, ...], eps: Tensor) -> Tensor:
        """A random perturbation inside, of images of that shape."""
        raise NotImplementedError

    def size(self, moved: Tensor) -> Tensor:
        """The norm of each perturbation, ``[n]``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Attacked:
    """The result of an attack.

    Args:
        images: the worst images, in [0, 1], each within eps of its own.
        loss: their cross entropy, ``[n]``; at least that of the images given.
        right: whether the network still gets them right, ``[n]``.
        clean: whether it gets the images given right, ``[n]``.
        vanishing: share of the attack's gradients that are zero, below the smallest normal number
            or NaN in all pixels, ``[n]``.
        probed: what probes say of it: ``probed.doubt`` is why the figure cannot be trusted.
    """

    images: Tensor
    loss: Tensor
    right: Tensor
    clean: Tensor
    vanishing: Tensor
    probed: SecondLook


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float | Tensor = 1 / 255,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    seed: int = 0,
    first: int = 0,
    logits: Logits = lambda model, x: model(x),
) -> Attacked:
    """The images on which a network loses most, within eps of those given.

    From d = 0 or a random d in the ball, ``steps`` times::

        d <- P(d + step_size ascent(grad_d cross_entropy(model(x + d), y)))

    P: into the ball, then x + d into [0, 1]. Sign and budget are those of each image alone. Kept
    is the worst of all that was visited, the image itself included: a misclassified one if there
    is one, else that of the largest loss. The network is in eval mode.

    Where the gradient vanishes (saturated scores), the margin between the scores is climbed too.
    Where gradients do not tell how the scores change (rounding, noise), they are passed straight
    through, and random squares are tried. A warning says so where that concerns a tenth of the
    images, and where it does not help: then the figure cannot be trusted.

    Args:
        model: pixels in [0, 1] -> logits ``[n, classes]``, normalisation inside; or ``[n, 1]``, the
            logit of class 1 against class 0.
        images: ``[n, c, h, w]`` in [0, 1].
        labels: ``[n]``.
        norm: "linf" or "l2".
        eps: radius in units of the pixel range; one number or ``[n]``.
        steps: of ascent, for each restart.
        step_size: eps / 4 if left out.
        restarts: how often to start; the worst result counts.
        random_start: begin inside the ball, not at the image.
        seed: of the starts.
        first: index of the first image in the whole set; an image has its own start.
        logits: how to call the model.

    Returns:
        The attacked images with losses and whether they are still right.

    Raises:
        SteppeError: images outside [0, 1], a budget below 0, a network whose output for the same
            images differs from call to call.

    Source: Madry et al. 2018. SAFE's Table 3 takes eps 1/255 (linf) and 3/255 (l2), 10 steps of
    eps / 4; its released code steps by the sign in l2 too, takes one norm over the batch and clips
    normalised images to [0, 1].

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False)).eval()
        >>> x = torch.full((1, 3, 2, 2), 0.5)
        >>> attacked = pgd(net, x, torch.tensor([0]), norm="l2", eps=0.5)
        >>> round(float((attacked.images - x).norm()), 4)
        0.5
    """
    attacked = pgd_probed(
        model,
        images,
        labels,
        norm=norm,
        eps=eps,
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        random_start=random_start,
        seed=seed,
        first=first,
        logits=logits,
    )
    for line in attacked.probed.lines():
        warnings.warn(line, RuntimeWarning, stacklevel=2)
    return attacked


def pgd_probed(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float | Tensor = 1 / 255,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    seed: int = 0,
    first: int = 0,
    logits: Logits = lambda model, x: model(x),
) -> Attacked:
    """`pgd` without a warning, for who reads ``probed`` of the result."""
    ball, radius = NORMS[norm](), torch.as_tensor(eps, dtype=images.dtype, device=images.device)
    radius = radius.expand(len(images)).view(-1, 1, 1, 1)
    check_attack(images, labels, radius, steps, restarts)
    with evaluating(model), FrozenWeights(model):
        image_loss = ImageLoss(model, labels, logits)
        loss, clean = check_deterministic(image_loss, images)
        worst = Worst(images, radius, ball, images.clone(), loss, clean)
        vanished, lost = torch.zeros_like(loss), torch.zeros_like(loss)
        for restart in range(restarts):
            moved = torch.zeros_like(images)
            if random_start and steps:
                draws = Draws(
                    seed, f"pgd/{norm}/{restart}", range(first, first + len(images)), images.device
                )
                moved = ball.start(draws, tuple(images.shape[1:]), radius).to(images.dtype)
                moved = (images + moved).clamp_(0.0, 1.0) - images
            size = radius / 4 if step_size is None else step_size
            counts = worst.climb(moved, image_loss.with_gradient, steps, size)
            vanished, lost = vanished + counts[0], lost + counts[1]
        vanishing = vanished / (restarts * (steps + 1))
        probed = Prober(image_loss, worst, clean, steps, seed, first).look(lost)
    return Attacked(worst.points, worst.loss, worst.right, clean, vanishing, probed)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack: it looks for the worst images in a ball; its fields are its options."""

    title: ClassVar[str]
    """What results call it."""

    def about(self) -> dict[str, Any]:
        """More values for the results, beside its title and its options."""
        return {}

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        norm: str,
        eps: float,
        seed: int = 0,
        first: int = 0,
    ) -> Attacked:
        """The worst images found within eps of those given; see `pgd` for the arguments."""
        raise NotImplementedError


@ATTACKS.register("pgd")
@dataclass(frozen=True, kw_only=True)
class ProjectedGradient(Attack):
    """Projected gradient ascent; see `pgd`.

    Args:
        steps: of ascent, each of eps / 4.
        restarts: how often to start; the worst result counts.
    """

    title = "PGD"

    steps: int = 10
    restarts: int = 1

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, **options: Any
    ) -> Attacked:
        how: dict[str, Any] = {"steps": self.steps, "restarts": self.restarts}
        return pgd_probed(model, images, labels, **how, **options)


class FrozenWeights:
    """No gradients for the weights: an attack needs none, and they cost a third of a pass."""

    def __init__(self, model: nn.Module) -> None:
        self.trainable = [p for p in model.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for p in self.trainable:
            p.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for p in self.trainable:
            p.requires_grad_(True)


def check_attack(images: Tensor, labels: Tensor, radius: Tensor, steps: int, restarts: int) -> None:
    """Check the arguments of an attack.

    Raises:
        SteppeError: no images, images outside [0, 1], another number of labels, a budget or a
            count that is none.
    """
    check_images(images, channels=None)
    if not len(images) or len(images) != len(labels):
        raise SteppeError(
            "an attack needs images and one label each",
            got=f"{len(images)} images, {len(labels)} labels",
        )
    if not bool((radius >= 0).all()) or steps < 0 or restarts < 1:
        raise SteppeError(
            "an attack needs eps >= 0, steps >= 0 and at least one restart",
            got=f"eps {float(radius.min()):g}, steps {steps}, restarts {restarts}",
        )


def check_deterministic(image_loss: ImageLoss, images: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and whether right, if two passes over the same images give the same scores."""
    with torch.no_grad():
        first, second = image_loss.scores(images), image_loss.scores(images)
    loss, right = image_loss.judge(first)
    finite(float(loss.max()), "the loss of the images", "check the weights")
    again = image_loss.judge(second)[0]
    size = first.abs().amax(1, keepdim=True)
    same = torch.isclose(first, second, rtol=0, atol=0) | ((first - second).abs() <= 1e-3 * size)
    if not torch.allclose(loss, again, rtol=1e-4, atol=1e-5) or not bool(same.all()):
        raise SteppeError(
            "the network must answer the same for the same images, in eval mode",
            got=f"scores that differ by {float((first - second).abs().max()):.3g}",
            consequence="an attack would report luck as robustness",
            way_out="turn off what is random in forward(), e.g. functional dropout without "
            "training=self.training",
        )
    return loss, right
