"""Whether an attack by gradients could see: probes, other ways to attack, and what to say.

A network's gradients can vanish (saturated outputs, rounding) or mislead (noise) while its
decisions change as before. An attack that follows them then counts as robustness what is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from steppe.robustness.draws import Draws
from steppe.robustness.image_loss import ImageLoss, Judged

UNTRUSTED = "accuracy under attack cannot be trusted"
LEAST = 0.5
"""Agreement of gradients with differences below which they mislead; smooth networks: above 0.9."""
STEPS = 0.02
"""Gain in agreement by passing straight through steps from which on there are steps."""
SHARE = 0.01
"""Share of the images from which on blind gradients make a figure doubtful."""
_SAMPLE, _DIRECTIONS, _QUERIES, _AVERAGED = 64, 4, 100, 8
_LEVEL = 1 / 255
_COUNTS = ("saturated", "blind", "untrusted", "found", "no_numbers", "transferred")

GradientOf = Callable[[Tensor], Judged]
"""Images -> loss, whether right, gradient, whether it vanishes or is lost."""


class BallLike(Protocol):
    """What is needed of a norm ball; see `steppe.robustness.attacks.Ball`."""

    def ascent(self, gradient: Tensor) -> Tensor:
        """The steepest direction."""

    def project(self, moved: Tensor, eps: Tensor) -> Tensor:
        """The nearest perturbation in the ball."""


@dataclass
class Worst:
    """The worst points visited so far, of images whose perturbations stay in a ball.

    Args:
        images: as given, ``[n, c, h, w]``.
        radius: ``[n, 1, 1, 1]``.
        ball: of the norm.
        points: the worst, ``[n, c, h, w]``.
        loss: there, ``[n]``.
        right: whether the network is right there, ``[n]``.
    """

    images: Tensor
    radius: Tensor
    ball: BallLike
    points: Tensor
    loss: Tensor
    right: Tensor

    def visit(self, points: Tensor, loss: Tensor, right: Tensor) -> None:
        """Keep what is worse: wrong before right, then the larger loss."""
        better = (right < self.right) | ((right == self.right) & (loss > self.loss))
        self.points = torch.where(better.view(-1, 1, 1, 1), points, self.points)
        self.loss = torch.where(better, loss, self.loss)
        self.right = torch.where(better, right, self.right)

    def within(self, moved: Tensor) -> Tensor:
        """A perturbation in the ball whose image lies in [0, 1]."""
        moved = self.ball.project(moved, self.radius)
        return (self.images + moved).clamp_(0.0, 1.0) - self.images

    def of(self, index: Tensor) -> Worst:
        """Those of some images."""
        return Worst(
            self.images[index],
            self.radius[index],
            self.ball,
            self.points[index],
            self.loss[index],
            self.right[index],
        )

    def put(self, index: Tensor, part: Worst) -> None:
        """Put what was reached for some images in its place."""
        self.points, self.loss, self.right = (
            whole.index_copy(0, index, own)
            for whole, own in (
                (self.points, part.points),
                (self.loss, part.loss),
                (self.right, part.right),
            )
        )

    def climb(
        self, moved: Tensor, gradient_of: GradientOf, steps: int, size: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Ascent from a perturbation; all points count.

        Args:
            moved: the start, ``[n, c, h, w]``.
            gradient_of: see `GradientOf`.
            steps: of ascent.
            size: of a step.

        Returns:
            How many of the steps + 1 gradients vanished, and how many were lost, ``[n]`` each.
        """
        vanished, lost = torch.zeros_like(self.loss), torch.zeros_like(self.loss)
        for step in range(steps + 1):
            judged = gradient_of(self.images + moved)
            self.visit(self.images + moved, judged.loss, judged.right)
            vanished += judged.vanishes
            lost += judged.lost
            if step < steps:
                moved = self.within(moved + size * self.ball.ascent(judged.gradient))
        return vanished, lost


@dataclass(frozen=True)
class SecondLook:
    """What the probes say of a result.

    Args:
        images: how many were attacked.
        saturated: at how many the loss lost its gradient and the margin of scores was climbed.
        blind: at how many gradients vanish or mislead.
        untrusted: how many of these no other gradient helped with.
        found: how many of these fell to another attack.
        no_numbers: at how many the scores became NaN.
        transferred: how many only images made for another network fooled.
        agreement: of gradients with differences, the lowest; see `Prober.agreement`.
    """

    images: int = 0
    saturated: int = 0
    blind: int = 0
    untrusted: int = 0
    found: int = 0
    no_numbers: int = 0
    transferred: int = 0
    agreement: float = 1.0

    def __add__(self, other: SecondLook) -> SecondLook:
        """Of two batches."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in ("images", *_COUNTS)}
        return SecondLook(**counts, agreement=min(self.agreement, other.agreement))

    @property
    def doubt(self) -> str:
        """Why accuracy under attack cannot be trusted, one line; "" where it can."""
        least, may = SHARE * self.images, "the network may be less robust than it looks"
        if self.untrusted and self.untrusted >= least:
            return f"{self._blind()}: {may}"
        if self.transferred and self.transferred >= least:
            return (
                f"images made for the other network fool it at {self._share(self.transferred)}, "
                f"where its own gradients do not lead: {may}"
            )
        return ""

    def lines(self) -> list[str]:
        """What a person should read, one line each; notes from a tenth of the images on."""
        doubt = [f"{UNTRUSTED}: {self.doubt}"] if self.doubt else []
        many = max(self.saturated, self.blind, self.no_numbers) >= 0.1 * self.images
        return [*doubt, *(self.notes if many else ())]

    def record(self) -> dict[str, Any]:
        """Plain values for a record: shares of the images, and the sentences."""
        shares = {name: getattr(self, name) / max(self.images, 1) for name in _COUNTS}
        return {
            **shares,
            "agreement": self.agreement,
            "doubt": self.doubt,
            "notes": self.notes,
            "lines": self.lines(),
        }

    @property
    def notes(self) -> list[str]:
        """What was done beside the attack, in sentences; what `doubt` says is left out."""
        notes = []
        if self.saturated and not self.blind:
            notes.append(
                f"the cross entropy loses its gradient at {self._share(self.saturated)} (scores "
                "far apart, or nearly equal); there the attack also climbed their margin"
            )
        if self.blind and not self.doubt:
            notes.append(f"{self._blind()}, which are counted")
        if self.no_numbers:
            notes.append(f"the scores became NaN at {self._share(self.no_numbers)}: counted wrong")
        return notes

    def _share(self, count: int) -> str:
        return f"{count / self.images:.1%} of the images"

    def _blind(self) -> str:
        how = "do not tell how its outputs change" if self.agreement < LEAST else "vanish"
        return (
            f"at {self._share(self.blind)} the network's gradients {how} (rounding, a cast, noise "
            f"or saturated outputs inside?), and {self.found} of them fell to gradients passed "
            "straight through and to random squares"
        )


@dataclass
class Prober:
    """Looks again at images that an attack left right.

    Args:
        image_loss: of the network.
        worst: what the attack reached; made worse here.
        clean: whether the network gets the images given right, ``[n]``.
        steps: of further ascents.
        seed: of random numbers.
        first: index of the first image in the whole set.
    """

    image_loss: ImageLoss
    worst: Worst
    clean: Tensor
    steps: int
    seed: int
    first: int

    def look(self, lost: Tensor) -> SecondLook:
        """Probe, attack otherwise where gradients are masked, and say what there is to say.

        Where no gradient is lost and the gradients agree with differences, nothing is changed.

        Args:
            lost: how many of the attack's gradients were lost, ``[n]``.
        """
        masked = self.worst.right & (lost > 0)
        no_numbers = int(self.worst.loss.isnan().sum())
        said = SecondLook(len(masked), int(masked.sum()), no_numbers=no_numbers)
        if not bool((self.worst.right & (self.worst.radius.flatten() > 0)).any()):
            return replace(said, saturated=0)
        blind = self._margins(masked)
        seen = self.clean & ~blind
        agreement, better = self.agreement(seen), self.agreement(seen, through=True)
        # without steps the two are the same gradient
        if agreement < LEAST or better > agreement + STEPS:
            blind = self.worst.right.clone()
        if not bool(blind.any()):
            return replace(said, agreement=agreement)
        helped = self.agreement(blind, through=True) >= LEAST
        self._otherwise(blind, misled=not helped)
        return replace(
            said,
            blind=int(blind.sum()),
            untrusted=0 if helped else int(blind.sum()),
            found=int((blind & ~self.worst.right).sum()),
            agreement=agreement,
        )

    def _margins(self, masked: Tensor) -> Tensor:
        """Ascent by the margin where the loss has no gradient; where that has none either."""
        blind = torch.zeros_like(masked)
        index = masked.nonzero()[:, 0]
        if not len(index):
            return blind
        part, loss = self.worst.of(index), self.image_loss.of(index)
        vanished, _ = part.climb(
            torch.zeros_like(part.images), loss.margin_gradient, self.steps, part.radius / 4
        )
        self.worst.put(index, part)
        return blind.index_copy(0, index, (vanished > 0) & part.right)

    def agreement(self, where: Tensor, *, through: bool = False) -> float:
        """How well gradients of the margin predict its differences along random directions.

        The cosine of predicted and measured differences, each image of weight 1, over a sample; 1
        where nothing moves, unless the network only decides (scores of 0 and 1): 0.

        Args:
            where: which images, ``[n]``.
            through: gradients that pass straight through rounding.
        """
        index = where.nonzero()[:_SAMPLE, 0]
        if not len(index):
            return 1.0
        images, loss = self.worst.images[index], self.image_loss.of(index)
        rows = [self.first + i for i in index.tolist()]
        draws = Draws(self.seed, "agreement", rows, images.device)
        size = (self.worst.radius[index] / 2).clamp(_LEVEL, 4 * _LEVEL)
        gradient = loss.margin_gradient(images, through=through).gradient
        predicted, measured = [], []
        with torch.no_grad():
            for _ in range(_DIRECTIONS):
                step = size * draws.uniform(*images.shape[1:], low=-1.0).sign().to(images.dtype)
                up, down = (images + step).clamp(0, 1), (images - step).clamp(0, 1)
                predicted.append(((up - down) * gradient).flatten(1).sum(1))
                measured.append(loss.margins(up) - loss.margins(down))
            scores = loss.scores(images)
        cosine = _cosine(torch.stack(predicted), torch.stack(measured))
        if cosine is None:
            return 0.0 if bool(((scores == 0) | (scores == 1)).all()) else 1.0
        return cosine

    def _otherwise(self, where: Tensor, misled: bool) -> None:
        """Ascent straight through steps, by averaged gradients where they mislead, and a search."""
        index = where.nonzero()[:, 0]
        part, loss = self.worst.of(index), self.image_loss.of(index)
        rows = [self.first + i for i in index.tolist()]

        def straight(points: Tensor) -> Judged:
            return loss.margin_gradient(points, through=True)

        def averaged(points: Tensor) -> Judged:
            judged = loss.margin_gradient(points, through=True)
            total = judged.gradient
            for _ in range(_AVERAGED):
                moved = draws.uniform(*points.shape[1:], low=-1.0).to(points) * part.radius
                total = total + loss.margin_gradient(points + moved, through=True).gradient
            return judged._replace(gradient=total)

        draws = Draws(self.seed, "averaged", rows, part.images.device)
        start, size = torch.zeros_like(part.images), part.radius / 4
        part.climb(start, straight, self.steps, size)
        if misled:
            part.climb(start, averaged, self.steps, size)
        search(part, loss, Draws(self.seed, "squares", rows, part.images.device))
        self.worst.put(index, part)


def search(worst: Worst, image_loss: ImageLoss, draws: Draws, queries: int = _QUERIES) -> None:
    """Random squares, kept where the margin grows; needs no gradient.

    Source: after Andriushchenko et al. 2020 (Square Attack), with fewer queries.

    Args:
        worst: made worse.
        image_loss: of the same images.
        draws: of the same images.
        queries: forward passes.
    """
    height, width = worst.images.shape[-2:]
    rows, columns = (
        torch.arange(n, device=worst.images.device, dtype=torch.float32) for n in (height, width)
    )
    channels = worst.images.shape[1]
    with torch.no_grad():
        moved = worst.points - worst.images
        best = image_loss.margins(worst.points)
        for query in range(queries):
            side = (0.8 * (1 - query / queries)) ** 0.5
            tall, wide = max(1, round(side * height)), max(1, round(side * width))
            corner = draws.uniform(2, 1, 1)
            top = (corner[:, 0] * (height - tall + 1)).floor()
            left = (corner[:, 1] * (width - wide + 1)).floor()
            inside_rows = (rows[:, None] >= top) & (rows[:, None] < top + tall)
            inside_columns = (columns >= left) & (columns < left + wide)
            signs = draws.uniform(channels, 1, 1, low=-1.0).sign()
            patch = (signs * (inside_rows & inside_columns)[:, None]).to(moved.dtype)
            tried = worst.within(moved + 2 * worst.radius * worst.ball.ascent(patch))
            points = worst.images + tried
            worst.visit(points, *image_loss(points))
            margin = image_loss.margins(points)
            better = margin >= best
            moved = torch.where(better.view(-1, 1, 1, 1), tried, moved)
            best = torch.where(better, margin, best)


def _cosine(predicted: Tensor, measured: Tensor) -> float | None:
    """Of ``[directions, n]`` each, every image weighted by its own size; None: nothing moves."""
    predicted, measured = (v.double().nan_to_num() for v in (predicted, measured))
    length = (predicted.square() + measured.square()).sum(0).sqrt()
    moves = length > 0
    if not bool(moves.any()):
        return None
    p, q = predicted[:, moves] / length[moves], measured[:, moves] / length[moves]
    norms = p.norm() * q.norm()
    return float((p * q).sum() / norms) if float(norms) > 0 else 0.0
