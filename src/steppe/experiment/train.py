"""The Python twin of ``steppe train``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steppe.experiment.causal_lm.recipe import LanguageRecipe
    from steppe.experiment.recipe import Recipe


def train(
    recipe: Recipe | LanguageRecipe | Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train a sparse network as a recipe says; started again, it goes on where it was.

    An image classifier, with ``task: detection`` a detector of objects, or with ``task: causal_lm``
    a language model as a whole.

    Args:
        recipe: a YAML file, the name of a recipe that comes with steppe (``steppe recipes`` lists
            them), plain data, or a `steppe.experiment.recipe.Recipe` (of language models a
            `steppe.experiment.causal_lm.recipe.LanguageRecipe`).
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
    from steppe.experiment.causal_lm.recipe import LanguageRecipe
    from steppe.experiment.read import read_plain
    from steppe.experiment.recipe import Recipe
    from steppe.experiment.tasks import TASKS, task_of

    folder = None if out is None else Path(out)
    if isinstance(recipe, Recipe | LanguageRecipe):
        return TASKS[recipe.task].train(recipe, folder, quiet)
    if isinstance(recipe, Mapping):
        task = task_of(recipe)
        return task.train(task.load(recipe, "the recipe", None), folder, quiet)
    data, path = read_plain(recipe)
    task = task_of(data, path.parent)
    return task.train(task.load(data, str(path), path.parent), folder, quiet)
