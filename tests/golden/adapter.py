"""What a redesign may move: mended here, nothing else in this folder need change."""

from __future__ import annotations

import contextlib
import importlib

import steppe
from steppe import Method
from steppe.methods import METHODS


def find(*places):
    """The first of several ``module:name`` that exists."""
    for place in places:
        module, _, name = place.partition(":")
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(module), name)
    raise ImportError(f"none of {places}: mend the adapter")


AXES = {
    kind: find(f"steppe.core.protocols:{name}", f"steppe.core.part:{name}").registry
    for kind, name in {
        "score": "Score",
        "structure": "Structure",
        "budget": "Budget",
        "schedule": "Schedule",
        "coupling": "Coupling",
        "perturb": "Perturb",
        "objective": "Objective",
    }.items()
}
COSTS = find("steppe.removal.cost:COSTS")
main = find("steppe.cli.main:main")


def language(name, **options):
    """A registered method in its form for language models."""
    build = METHODS[name]
    if callable(getattr(build, "language", None)):
        return build.language(**options)
    return find("steppe.methods:for_language")(build(**options))


def cost_of(name, model, example, groups):
    """A registered cost, which a tiny network may miss by a tenth."""
    cost = COSTS[name].of(model, example, groups)
    cost.tolerance = 0.1
    return cost


def compose(parts):
    """A method from axis -> part as plain data."""
    return Method(**parts)


def swap(method, axis, part):
    """The method with another part on one axis."""
    return method.replace(**{axis: part})


def sparsifier(model, optimizer, method, steps, epoch, *, groups=(), cost=None, trial=None):
    """`steppe.sparsify` with its rare options."""
    rare = {"groups": groups, "cost": cost, "trial": trial} if groups else {}
    return steppe.sparsify(model, optimizer, method, steps, steps_per_epoch=epoch, **rare)


def objective_loss(steps, method, loss, outputs, inputs):
    """What the method's objective makes of the task's loss; block objectives had no say here."""
    if not hasattr(steps, "loss") or method.objective.scope != "task":
        return loss
    return steps.loss(loss, outputs=outputs, inputs=inputs)


def summary(finished):
    """The numbers of what `finish` returns."""
    numbers = {k: v for k, v in vars(finished).items() if isinstance(v, int | float)}
    numbers.pop("parameters", None)  # of the model, not of the run
    return numbers


def pruned(folder, method, tokens, out, **options):
    """`steppe.prune` of a language model; 2 epochs where blocks are optimised."""
    config = find(
        "steppe.engine.blockwise.config:ReconstructionConfig", "steppe.engine.blockfit:FitConfig"
    )
    reconstruction = config(epochs=2, warmup_epochs=1, batch_size=2)
    key = "fit" if config.__name__ == "FitConfig" else "reconstruction"
    options[key] = reconstruction
    return steppe.prune(folder, method, tokens, out, device="cpu", precision="float32", **options)
