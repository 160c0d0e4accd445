"""The Python twin of ``steppe train``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steppe.experiment.recipe import Recipe


def train(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train a sparse network as a recipe says; started again, it goes on where it was.

    Args:
        recipe: a YAML file, the name of a recipe that comes with steppe (``steppe recipes`` lists
            them), plain data, or a `steppe.experiment.recipe.Recipe`.
        out: the run's folder: weights, masks, recipe, metrics, record, checkpoints. A finished
            run is not done again. Without it nothing is written.
        quiet: show no progress.

    Returns:
        The record, as in ``record.json``: what was asked for and reached, dense and sparse quality,
        sizes, latency, seconds, versions.

    Raises:
        SteppeError: the recipe or the folder is wrong.

    Example:
        >>> import steppe
        >>> record = steppe.train(
        ...     {
        ...         "model": "small-cnn",
        ...         "data": {"name": "digits", "train_size": 128, "test_size": 64},
        ...         "method": {"name": "magnitude", "sparsity": 0.5},
        ...         "train": {"epochs": 1, "batch_size": 64, "bn_batches": 1},
        ...         "device": "cpu",
        ...     }
        ... )
        >>> record["method"], round(record["sparsity_reached"], 2)
        ('magnitude', 0.5)
    """
    from steppe.experiment.experiment import Experiment, load_data
    from steppe.experiment.recipe import load_recipe

    ready = load_recipe(recipe)
    ready.build_method()  # a bad method fails before data are read
    ready.train.config()
    folder = None if out is None else Path(out)
    record, _, _ = Experiment(ready, load_data(ready), folder, quiet).train()
    return record
