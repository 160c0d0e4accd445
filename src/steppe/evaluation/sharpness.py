"""How flat the loss of an image model is around its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from typing import Any

from torch.nn import functional as F

from steppe.core.errors import SteppeError, unknown
from steppe.core.text import counted
from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.experiment.image_run import ImageRun
from steppe.robustness.average_sharpness import average_sharpness
from steppe.robustness.hessian_trace import hessian_trace
from steppe.robustness.sharpness import ball_sharpness, hessian_top, one_step_sharpness


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
        measures: which, comma-separated; all cost some 800 forward passes over the images.
        max_products: Hessian-vector products at most for the eigenvalue.
        seed: of what is random.
    """

    part: str = "train"
    radius: float = 0.1
    adaptive_radius: float = 0.5
    limit: int | None = 1000
    support: str = "kept"
    measures: str = "one_step,ball,average,adaptive,top_eigenvalue,trace"
    max_products: int = 500
    seed: int = 0

    def _wanted(self) -> list[str]:
        return [name.strip() for name in self.measures.split(",")]

    def check(self) -> None:
        if self.support not in ("kept", "all"):
            raise SteppeError(
                "--support is kept or all", got=repr(self.support), way_out="--support kept"
            )
        if not (0.0 < self.radius < inf and 0.0 < self.adaptive_radius < inf):
            raise SteppeError(
                "--radius and --adaptive-radius are finite numbers above 0",
                got=f"{self.radius:g} and {self.adaptive_radius:g}",
                way_out="--radius 0.1 --adaptive-radius 0.5",
            )
        if self.max_products < 1:
            raise SteppeError(
                "--max-products is 1 or more", got=self.max_products, way_out="--max-products 500"
            )
        known = _measures(self)
        for name in self._wanted():
            if name not in known:
                raise unknown("measure", name, known)

    def measure(self) -> dict[str, Any]:
        """Worst and mean rise of the loss, ASAM's too; eigenvalue and trace; eval mode."""
        self.check()
        known = _measures(self)
        run = ImageRun.read(self.run, self.device, "sharpness")
        batches = [
            tuple(part.to(self.device) for part in pair)
            for pair in zip(*(t.split(500) for t in run.pixels(self.part, self.limit)), strict=True)
        ]
        masks = run.masks() if self.support == "kept" else {}
        named = {f"model.model.{name}": mask for name, mask in masks.items()}
        given = (run.on_pixels, F.cross_entropy, batches)
        return {
            "radius": self.radius,
            "adaptive_radius": self.adaptive_radius,
            **{name: known[name](*given, masks=named or None) for name in self._wanted()},
            "support": self.support if masks else "all",
            "part": self.part,
            "images": sum(len(y) for _, y in batches),
        }

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """What was measured, in a row."""
        said = {
            "ball": f"sharpness {{:.4g}} within {self.radius:g}",
            "one_step": "one step {:.4g}",
            "average": "on average {:.4g}",
            "adaptive": f"adaptive {{:.4g}} within {self.adaptive_radius:g}",
            "top_eigenvalue": "top eigenvalue {:.4g}",
            "trace": "trace {:.4g}",
        }
        shown = [
            text.format(value["mean"] if isinstance(value := result[name], dict) else value)
            for name, text in said.items()
            if name in result
        ]
        images = counted(result["images"], f"{result['part']} image")
        where = f"{counted(result['support'], 'weight')}, {images}"
        return f"{', '.join(shown)}; {where}"


def _measures(flags: Sharpness) -> dict[str, Callable[..., Any]]:
    """Each measure's name -> the function of (model, loss, batches, masks=)."""
    seed, budget = flags.seed, flags.max_products
    near: dict[str, Any] = {"rho": flags.radius}
    wide: dict[str, Any] = {"rho": flags.adaptive_radius, "adaptive": True}
    return {
        "one_step": partial(one_step_sharpness, **near),
        "ball": partial(ball_sharpness, seed=seed, **near),
        "average": _plain(partial(average_sharpness, seed=seed, **near)),
        "adaptive": partial(ball_sharpness, seed=seed, **wide),
        "top_eigenvalue": lambda *x, **m: (
            hessian_top(*x, seed=seed, max_products=budget, **m).eigenvalue
        ),
        "trace": _plain(partial(hessian_trace, seed=seed)),
    }


def _plain(measure: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    return lambda *x, **m: asdict(measure(*x, **m))
