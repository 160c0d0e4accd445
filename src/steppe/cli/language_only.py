"""Verbs that are for language models alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from steppe.core.errors import SteppeError
from steppe.experiment.image_run import was_trained


def check_language(runs: Iterable[Path | str], rule: str, way_out: str) -> None:
    """Refuse runs of steppe train on images.

    Args:
        runs: folders of models, or what else a user may name.
        rule: what the verb is for.
        way_out: what does the like for images.

    Raises:
        SteppeError: one is such a run.
    """
    for run in map(Path, runs):
        if was_trained(run / "recipe.yaml") and not (run / "config.json").exists():
            raise SteppeError(rule, got=f"{run}, a run on images", way_out=way_out)
