"""What the end of a run leaves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from steppe.core.mask import count_zeros
from steppe.core.notes import note
from steppe.core.protocols import Coupling, Tensors
from steppe.core.split import Alone
from steppe.engine.step.selector import Selector
from steppe.method import Method

FAR = 0.2
"""A last projection that moves the weights further than this has cost accuracy wherever tried."""


@dataclass(frozen=True)
class Finished:
    """What the end of a run left.

    Args:
        masks: weight name -> booleans, True = kept.
        zeros: zeros among the prunable weights.
        total: prunable weights.
        units_zeroed: units of the structure that were zeroed.
        units: units in all.
        distance: ||x - P(x)|| / ||x|| at the last projection: how much the weights had to move.
    """

    masks: Tensors
    zeros: int
    total: int
    units_zeroed: int
    units: int
    distance: float
    zeros_before: int
    """Zeros before the last projection: those that a penalty or a threshold made by itself."""
    reached: float
    """What the budget counts, and how much of it went; with coupled channels a cost."""
    parameters: int
    """Parameters of the whole model, with those that are never pruned."""

    @property
    def sparsity(self) -> float:
        """Zeros over prunable weights."""
        return self.zeros / self.total

    @property
    def sparsity_of_all(self) -> float:
        """Those zeros over all parameters of the model: embeddings, biases, what stays dense."""
        return self.zeros / max(self.parameters, 1)

    def __repr__(self) -> str:
        of_all = f" ({self.sparsity_of_all:.2%} of all parameters)"
        return (
            f"Finished({self.zeros:,} of {self.total:,} weights are zero, {self.sparsity:.2%}"
            f"{of_all}; the last projection moved the weights by {self.distance:.2%})"
        )

    def far(self, method: Method) -> str:
        """What to say when the last projection moved the weights far; empty when it did not."""
        if self.distance <= FAR:
            return ""
        return (
            f"the last projection moved the weights by {self.distance:.0%}, which usually "
            f"costs accuracy: {advice(method)}"
        )

    def warn(self, method: Method, done: int, total: int) -> None:
        """Warn the caller of `Sparsifier.finish` when the last projection moved the weights far.

        Args:
            method: whose options may help.
            done: steps made.
            total: steps that its schedules stretch over.
        """
        said = self.far(method)
        if said and done < total:
            said = (
                f"finish() after {done} of {total} steps: the last projection moved the weights by "
                f"{self.distance:.0%}, as the method had not come to its end; total_steps counts "
                "optimiser steps, not micro-batches"
            )
        if said:
            # past finish() and the wrapper of no_grad: the caller's line
            note(said, stacklevel=4)


def projected(
    before: Tensors,
    weights: Tensors,
    masks: Tensors,
    selector: Selector,
    parameters: int,
    everywhere: Alone | None = None,
) -> Finished:
    """What the last projection made.

    Args:
        before: name -> weight before it; used up.
        weights: name -> weight after it.
        masks: name -> booleans, True = kept.
        selector: counts units.
        parameters: how many the model has.
        everywhere: counts over all processes, where the weights are split.
    """
    counted = everywhere or Alone()
    zeros_before = counted.total(count_zeros(before))
    length = counted.norm(list(before.values()))
    moved = counted.norm([before[n].sub_(w) for n, w in weights.items()])  # in place: a copy less
    units = selector.num_units
    return Finished(
        masks=selector.gathered(masks),
        zeros=counted.total(count_zeros(weights)),
        total=counted.total(sum(w.numel() for w in weights.values())),
        units_zeroed=units - selector.kept(masks),
        units=units,
        distance=float(moved / length.clamp_min(1e-30)),
        zeros_before=zeros_before,
        reached=selector.reached(masks),
        parameters=parameters,
    )


def advice(method: Method) -> str:
    """What brings the weights nearer to what stays, from what the method's parts declare."""
    assert isinstance(method.coupling, Coupling)
    own = method.coupling.to_dict()
    numbers = {
        f.name: f.default
        for f in dataclasses.fields(method.coupling)
        if not isinstance(own[f.name], str)
    }
    pulls = [option for option in method.coupling.strength if option in numbers]
    ways = [
        f"raise the {option} (tenfold to begin with)"
        for option in pulls
        if not isinstance(numbers[option], str)
    ]
    # what would fit any run by itself
    fitting = [f"{name} {usual}" for name, usual in numbers.items() if isinstance(usual, str)]
    if fitting:
        flags = " ".join(f"--{name}" for name in fitting)
        ways.append(f"{' and '.join(fitting)} ({flags}) for any length of run")
    if "at" in method.schedule.to_dict():
        ways.append("cut earlier (at)")
    return ", ".join([*ways, "train longer, cut in cycles or gradually (gmp)"])


def gentler(method: Method) -> str:
    """What makes the steps of a run that failed smaller: those of its options that it has.

    Example:
        >>> import steppe
        >>> gentler(steppe.methods.safe(sparsity=0.9))
        'a smaller learning rate or rho'
        >>> gentler(steppe.methods.safe(sparsity=0.9, penalty=0.1, rho=0.0))
        'a smaller learning rate, or penalty auto'
    """
    assert isinstance(method.coupling, Coupling)
    radii = (p.to_dict().items() for p in method.perturb.parts)
    smaller = [name for part in radii for name, x in part if name.startswith("rho") and x]
    usual = {f.name: f.default for f in dataclasses.fields(method.coupling)}
    own = method.coupling.to_dict()
    numbers = [name for name in method.coupling.strength if not isinstance(own[name], str)]
    smaller += [name for name in numbers if own[name] and not isinstance(usual[name], str)]
    auto = [f"{name} {usual[name]}" for name in numbers if isinstance(usual[name], str)]
    said = " or ".join(filter(None, [", ".join(["learning rate", *smaller[:-1]]), *smaller[-1:]]))
    return ", or ".join([f"a smaller {said}", *auto])
