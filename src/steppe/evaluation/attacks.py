"""Accuracy of an image model under attack."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.experiment.image_run import ImageRun
from steppe.robustness.attacked import accuracy_under_attack


def radii(text: str, flag: str, most: float) -> list[float]:
    """Radii from comma-separated numbers or fractions, each once, none above ``most``.

    Example:
        >>> radii("1/4, 0.5", "--eps-linf", 1.0)
        [0.25, 0.5]
    """
    try:
        sizes = [float(Fraction(part.strip())) for part in text.split(",") if part.strip()]
    except (ValueError, ZeroDivisionError):
        sizes = [-1.0]
    if any(not 0.0 <= eps <= most for eps in sizes):
        raise SteppeError(
            f"{flag} takes radii from 0 to {most:g}, of pixels in [0, 1]",
            got=repr(text),
            way_out=f"{flag} 1/255,2/255",
        )
    return list(dict.fromkeys(sizes))


@EVALUATIONS.register("attacks")
@dataclass(frozen=True, kw_only=True)
class Attacks(Evaluation):
    """Accuracy after an attack on the pixels.

    Args:
        part: test, validation or train.
        attack: pgd, projected gradient ascent; or autoattack (pip install 'steppe[attacks]').
        eps_linf: radii of the largest change of a value, comma-separated; "" for none.
        eps_l2: radii of the length of the change of an image.
        steps: of gradient ascent; if none are given, 10 of a quarter of the radius each for pgd,
            100 for autoattack.
        restarts: how often an attack starts; once if not given.
        limit: images at most.
        seed: of what is random.
        beside: another run on the same images, usually the dense one; images made for it are
            tried too.
    """

    part: str = "test"
    attack: str = "pgd"
    eps_linf: str = "1/255"
    eps_l2: str = "3/255"
    steps: int | None = None
    restarts: int | None = None
    limit: int | None = None
    seed: int = 0
    beside: str | None = None

    def _radii(self) -> dict[str, Any]:
        return {
            # a change of 1 turns black into white; an image of a million values is 1,000 long
            "linf": radii(self.eps_linf, "--eps-linf", 1.0),
            "l2": radii(self.eps_l2, "--eps-l2", 1000.0),
        }

    def check(self) -> None:
        self._radii()
        if self.steps is not None and self.steps < 1:
            raise SteppeError(
                "an attack takes --steps 1 or more", got=self.steps, way_out="leave it out"
            )

    def measure(self) -> dict[str, Any]:
        """Clean and robust accuracy for each norm and radius."""
        self.check()
        run = ImageRun.read(self.run, self.device, "attacks")
        other = None if self.beside is None else run.beside(self.beside, self.part, pixels=True)
        images, labels = run.pixels(self.part, self.limit)
        return accuracy_under_attack(
            run.on_pixels,
            images,
            labels,
            radii=self._radii(),
            attack=self.attack,
            steps=self.steps,
            restarts=self.restarts,
            seed=self.seed,
            sibling=other.on_pixels if other is not None else None,
        )

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """Each accuracy in a row; below it why one cannot be trusted."""
        cells = [
            f"{norm} {float(eps):.4g}: {share:.2%}"
            for norm, shares in result["accuracy"].items()
            for eps, share in shares.items()
        ]
        said = [
            f"{norm} {float(eps):.4g}, {line}"
            for norm, probes in result["probes"].items()
            for eps, probe in probes.items()
            for line in probe["lines"]
        ]
        how = f"attacked by {result['attack']} in {counted(result['steps'], 'step')}"
        images = counted(result["images"], f"{self.part} image")
        clean = f"accuracy on {images} {result['clean']:.2%}"
        return "\n".join([f"{clean}, {how} {', '.join(cells)}", *said])
