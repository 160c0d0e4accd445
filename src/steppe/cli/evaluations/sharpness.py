"""How flat the loss of an image model is around its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch.nn import functional as F

from steppe.cli.evaluations import EVALUATIONS, Evaluation
from steppe.cli.imagerun import ImageRun
from steppe.core.errors import SteppeError
from steppe.robustness.average import average_sharpness
from steppe.robustness.sharpness import ball_sharpness, hessian_top, one_step_sharpness
from steppe.robustness.trace import hessian_trace


@EVALUATIONS.register("sharpness")
@dataclass(frozen=True, kw_only=True)
class Sharpness(Evaluation):
    """Rise of the training loss within a ball, and the Hessian's top eigenvalue.

    Args:
        part: test, validation or train.
        radius: of the ball, in units of the weights.
        adaptive_radius: of ASAM's ball, in units of each weight's size.
        limit: images at most.
        support: which weights move: those that were kept, or all.
        seed: of what is random.
    """

    part: str = "train"
    radius: float = 0.1
    adaptive_radius: float = 0.5
    limit: int | None = 1000
    support: str = "kept"
    seed: int = 0

    def measure(self) -> dict[str, Any]:
        """Worst and mean rise of the loss, ASAM's too; eigenvalue and trace; eval mode."""
        if self.support not in ("kept", "all"):
            raise SteppeError(
                "--support is kept or all", got=repr(self.support), way_out="--support kept"
            )
        run = ImageRun.read(self.run, self.device, "sharpness")
        model = run.on_pixels
        held = [
            tuple(part.to(self.device) for part in pair)
            for pair in zip(*(t.split(500) for t in run.pixels(self.part, self.limit)), strict=True)
        ]
        masks = run.masks() if self.support == "kept" else {}
        masks = {f"model.model.{name}": mask for name, mask in masks.items()}
        loss = F.cross_entropy
        given: dict[str, Any] = {"masks": masks or None}
        near: dict[str, Any] = {"rho": self.radius, **given}
        wide = {"rho": self.adaptive_radius, "adaptive": True, **given}
        seed = self.seed
        return {
            "radius": self.radius,
            "one_step": one_step_sharpness(model, loss, held, **near),
            "ball": ball_sharpness(model, loss, held, seed=seed, **near),
            "average": asdict(average_sharpness(model, loss, held, seed=seed, **near)),
            "adaptive_radius": self.adaptive_radius,
            "adaptive": ball_sharpness(model, loss, held, seed=seed, **wide),
            "top_eigenvalue": hessian_top(model, loss, held, seed=seed, **given).eigenvalue,
            "trace": asdict(hessian_trace(model, loss, held, seed=seed, **given)),
            "support": self.support if masks else "all",
            "part": self.part,
            "images": sum(len(y) for _, y in held),
        }

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """Worst and mean rise, eigenvalue, trace."""
        return (
            f"sharpness {result['ball']:.4g} within {result['radius']:g} "
            f"(one step {result['one_step']:.4g}, on average {result['average']['mean']:.4g}), "
            f"adaptive {result['adaptive']:.4g} within {result['adaptive_radius']:g}, "
            f"top eigenvalue {result['top_eigenvalue']:.4g}, trace {result['trace']['mean']:.4g}, "
            f"{result['support']} weights, {result['images']} {result['part']} images"
        )
