"""Accuracy of an image model on corrupted images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from steppe.core.text import counted
from steppe.evaluation import EVALUATIONS, Evaluation, read_record
from steppe.experiment.image_run import ImageRun, check_limit
from steppe.robustness.corrupted import (
    accuracy_under_corruption,
    at_severities,
    parse_selection,
    worst_of,
)
from steppe.robustness.corruption_error import r_c_text


@EVALUATIONS.register("corruptions")
@dataclass(frozen=True, kw_only=True)
class Corruptions(Evaluation):
    """Accuracy for each corruption at each severity, and the mean.

    Args:
        part: test, validation or train.
        corruptions: names, comma-separated; all 19 if none are given.
        severities: of 1 to 5, comma-separated.
        corrupted: a folder of published images (CIFAR-10-C: name.npy and labels.npy; ImageNet-C:
            name/severity/class/image), or a dataset's id, to use instead of corrupting the run's
            own.
        limit: images at most; of the run's own, where published ones are used: those are used
            whole.
        seed: of what is random.
        beside: another run on the same images, usually the dense one, as the reference network of
            the corruption errors (mCE).
    """

    part: str = "test"
    corruptions: str | None = None
    severities: str = "1,2,3,4,5"
    corrupted: str | None = None
    limit: int | None = None
    seed: int = 0
    beside: str | None = None

    def check(self) -> None:
        parse_selection(self.corruptions, self.severities)
        check_limit(self.limit)

    def measure(self) -> dict[str, Any]:
        """Accuracies, their means, R_C = acc_C / acc_val; corruption errors beside another run."""
        self.check()
        names, severities = parse_selection(self.corruptions, self.severities)
        run = ImageRun.read(self.run, self.device, "corruptions")
        other = None if self.beside is None else run.beside(self.beside, self.part, pixels=True)
        with torch.no_grad():
            result = accuracy_under_corruption(
                run.on_pixels,
                run.images(self.part, self.limit),
                names=names,
                severities=severities,
                published=self.corrupted,
                reference=None if other is None else other.on_pixels,
                seed=self.seed,
                fit=run.fit,
            )
        if other is not None:
            method = read_record(str(self.beside)).get("method", "dense")
            result["beside"] = {"run": self.beside, "method": method} | result["beside"]
        return result

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """R_C over the papers' kinds, or the mean over what was run; what is worst; mCE."""
        at = at_severities(result["severities"])
        papers = [
            f"{result[f'mean_{count}']:.2%} over {count} kinds{at} "
            f"({r_c_text(result[f'r_c_{count}'])})"
            for count in ("15", "19")
            if f"mean_{count}" in result
        ]
        names = list(result["accuracy"])
        run = ", ".join(names) if len(names) <= 3 else f"the {len(names)} kinds that were run"
        means = ", ".join(papers or [f"{result['mean_run']:.2%}, the mean over {run}{at}"])
        images = counted(result["images"], "corrupted image")
        text = (
            f"accuracy on {images} {means}, {result['clean']:.2%} on clean ones"
            f"{worst_of(result['accuracy'])}"
        )
        if "beside" not in result:
            return text
        return f"{text}; beside {result['beside']['run']}: {_errors(result['beside'], run)}"


def _errors(beside: dict[str, Any], run: str) -> str:
    """mCE and relative mCE of the papers' kinds, or of what was run; why one is not there."""
    suffixes = [count for count in ("15", "19") if f"mce_{count}" in beside] or ["run"]
    parts = []
    for suffix in suffixes:
        shown = [
            f"{name} {_percent(beside[f'{key}_{suffix}'])}"
            for key, name in (("mce", "mCE"), ("relative_mce", "relative mCE"))
        ]
        parts.append(f"{', '.join(shown)} over {run if suffix == 'run' else f'{suffix} kinds'}")
    no_loss = [name for name, error in beside["relative_ce"].items() if error is None]
    if no_loss:
        parts.append(f"where it loses nothing nothing can be divided by: {', '.join(no_loss)}")
    return "; ".join(parts)


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.1f} %"
