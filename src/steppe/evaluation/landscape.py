"""The loss around an image model's weights, along one and two directions."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.experiment.image_run import ImageRun
from steppe.robustness.landscape import directions, landscape


@EVALUATIONS.register("landscape")
@dataclass(frozen=True, kw_only=True)
class Landscape(Evaluation):
    """The training loss along filter-normalised random directions.

    Args:
        part: test, validation or train.
        radius: how far to go: 1 is as far as the weights are long.
        points: along a line, odd.
        plane_points: along each side of a plane, odd; 0 for no plane.
        like: another run whose directions are used, so that both are drawn on common ones; all
            weights move then.
        limit: images at most.
        support: which weights move: those that were kept, or all.
        seed: of what is random.
    """

    part: str = "train"
    radius: float = 1.0
    points: int = 21
    plane_points: int = 11
    like: str | None = None
    limit: int | None = 500
    support: str = "kept"
    seed: int = 0

    def check(self) -> None:
        if self.support not in ("kept", "all"):
            raise SteppeError(
                "--support is kept or all", got=repr(self.support), way_out="--support kept"
            )
        _check(self)

    def measure(self) -> dict[str, Any]:
        """Places and losses on a line and on a plane, in eval mode."""
        self.check()
        run = ImageRun.read(self.run, self.device, "landscape")
        images, labels = run.pixels(self.part, self.limit)
        batches = [
            (x.to(self.device), y.to(self.device))
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        ]
        model = run.on_pixels
        masks = run.masks() if self.support == "kept" and self.like is None else {}
        named = {f"model.model.{name}": mask for name, mask in masks.items()}
        from_ = model
        if self.like is not None:
            from_ = ImageRun.read(self.like, self.device, "landscape").on_pixels
            _same_shapes(model, from_, self.like)
        along = directions(from_, 2, masks=named or None, seed=self.seed)
        given: dict[str, Any] = {"radius": self.radius}
        places, line = landscape(
            model, F.cross_entropy, batches, along[:1], points=self.points, **given
        )
        surface = {"radius": self.radius, "places": places.tolist(), "line": numbers(line)}
        if self.plane_points:
            sides, plane = landscape(
                model, F.cross_entropy, batches, along, points=self.plane_points, **given
            )
            surface |= {"sides": sides.tolist(), "plane": [numbers(row) for row in plane]}
        return surface | {
            "like": self.like,
            "support": self.support if masks else "all",
            "part": self.part,
            "images": len(images),
        }

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """The loss in the middle and at the ends."""
        line = result["line"]
        ends = ", ".join("infinite" if end is None else f"{end:.4g}" for end in (line[0], line[-1]))
        images = counted(result["images"], f"{result['part']} image")
        return (
            f"loss {line[len(line) // 2]:.4g}, at distance {result['radius']:g} {ends}; "
            f"{counted(result['support'], 'weight')} moved, {images}"
        )


def _check(flags: Landscape) -> None:
    grids = (flags.points, flags.plane_points or 3)
    if any(points < 3 or points % 2 == 0 for points in grids):
        raise SteppeError(
            "--points and --plane-points are odd numbers of 3 or more, so that the middle is the "
            "network itself; --plane-points 0 draws no plane",
            got=f"{flags.points} and {flags.plane_points}",
            way_out="--points 21 --plane-points 11",
        )
    if not 0.0 < flags.radius < float("inf"):
        raise SteppeError(
            "--radius is a finite number above 0", got=flags.radius, way_out="--radius 1"
        )


def _same_shapes(own: nn.Module, other: nn.Module, name: str) -> None:
    shapes = [{n: p.shape for n, p in net.named_parameters()} for net in (own, other)]
    if shapes[0] != shapes[1]:
        raise SteppeError(
            "--like names a run of the same network",
            got=f"{name}, whose weights have other shapes",
            way_out="leave --like out",
        )


def numbers(losses: Tensor) -> list[float | None]:
    """Plain numbers; None for what is not finite, which JSON cannot hold.

    Example:
        >>> import torch
        >>> numbers(torch.tensor([1.0, float("inf")]))
        [1.0, None]
    """
    return [float(v) if isfinite(float(v)) else None for v in losses]
