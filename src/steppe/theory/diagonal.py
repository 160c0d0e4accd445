"""The diagonal linear network: which penalty recovers a sparse vector from too few samples?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.seed import checked_seed
from steppe.coupling.reparam.reparam import Reparam
from steppe.coupling.reparam.strength import Strength

Factors = tuple[Tensor, ...]
CURVES = ("constant", "harmonic", "quadratic", "geometric")
ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class Arm:
    """One parametrisation of x with its penalty.

    Args:
        label: for tables and figures.
        split: x -> the factors that are trained.
        join: the inverse.
        penalty_gradient: of the penalty of strength 1, for each factor.
    """

    label: str
    split: Callable[[Tensor], Factors]
    join: Callable[..., Tensor]
    penalty_gradient: Callable[..., Factors]


_OFFSET, _BALANCED = Reparam(beta=1.0), Reparam(init_as="balanced")
ARMS: Mapping[str, Arm] = {
    "pilot": Arm(
        "m * w, b = 1, L2 on m and w (PILoT)",
        _OFFSET.split,
        _OFFSET.join,
        lambda m, w: (2 * m, 2 * w),
    ),
    "l1_m": Arm(
        "m * w, b = 1, L1 on m",
        _OFFSET.split,
        _OFFSET.join,
        lambda m, w: (m.sign(), torch.zeros_like(w)),
    ),
    "l1_x": Arm("x, L1 on x", lambda x: (x.clone(),), lambda x: x, lambda x: (x.sign(),)),
    "spred": Arm(
        "m * w, b = 0, L2 on m and w (spred)",
        _BALANCED.split,
        _BALANCED.join,
        lambda m, w: (2 * m, 2 * w),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Diagonal:
    """min ||Z x - y||^2 + alpha_k penalty(x) by gradient descent, y = Z x* without noise.

    Args:
        samples: rows of Z, standard normal.
        size: of x; more than samples.
        support: entries of x* that are not zero; they are 1 or -1.
        inits: starting points x0, normal with standard deviation size^(-1/2).
        rate: learning rate.
        steps: of gradient descent.
        every: steps of one k.
        seed: of everything.

    Source: PILoT (ICLR 2025), section 5. Strengths, steps and x* are not in the paper's text: each
    strength is tried at eight sizes here, for every arm alike.

    Example:
        >>> len(Diagonal(samples=8, size=12, support=2, inits=2, steps=20, every=10).run()["runs"])
        256
    """

    samples: int = 40
    size: int = 100
    support: int = 5
    inits: int = 5
    rate: float = 1e-4
    steps: int = 20_000
    every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.support <= self.samples < self.size:
            raise SteppeError(
                "the problem needs 0 < support <= samples < size",
                got=f"support {self.support}, samples {self.samples}, size {self.size}",
                way_out="support 5, samples 40, size 100",
            )
        checked_seed(self.seed)
        if max(self.inits, self.samples) * self.size > 2**28:
            raise SteppeError(
                "samples x size and inits x size must fit into memory",
                got=f"samples {self.samples}, inits {self.inits}, size {self.size}",
                way_out="samples 40, inits 5, size 100",
            )
        counts = (self.inits, self.steps, self.every)
        if min(counts) < 1 or not 0.0 < self.rate < float("inf"):
            raise SteppeError(
                "inits and steps (also those of one k) are 1 or more, and the rate is positive",
                got=f"inits {self.inits}, steps {self.steps}, of one k {self.every}, "
                f"rate {self.rate}",
                way_out="inits 5, steps 20000, rate 1e-4",
            )

    def problem(self) -> tuple[Tensor, Tensor, Tensor]:
        """Z ``[samples, size]``, x* ``[size]`` and the starting points ``[inits, size]``."""
        generator = torch.Generator().manual_seed(self.seed)
        z = torch.randn(self.samples, self.size, generator=generator)
        truth = torch.zeros(self.size)
        nonzero = torch.randperm(self.size, generator=generator)[: self.support]
        truth[nonzero] = torch.randn(self.support, generator=generator).sign()
        start = torch.randn(self.inits, self.size, generator=generator) / self.size**0.5
        return z, truth, start

    def run(self) -> dict[str, Any]:
        """Every arm with every curve at every size of the strength.

        Returns:
            ``steps`` at which was measured, and ``runs``: each with ``arm``, ``curve``, ``alpha``,
            ``init``, the ``distance`` ||x - x*|| at these steps (None once it is not finite), and
            ``flipped``: entries of x whose sign at the end is not that of x0.
        """
        z, truth, start = self.problem()
        cases = [(c, a) for c in CURVES for a in ALPHAS]
        gram, right = 2 * z.T @ z, 2 * z.T @ (z @ truth)
        runs = []
        for arm in ARMS:
            x0 = start.repeat(len(cases), 1)
            distances, x = self._descend(ARMS[arm], x0, cases, gram, right, truth)
            flipped = (x * x0 < 0).sum(dim=1).tolist()
            for row, (curve, alpha) in enumerate(c for c in cases for _ in range(self.inits)):
                values = distances[:, row]
                distance = [round(float(v), 6) if v.isfinite() else None for v in values]
                runs.append(
                    {
                        "arm": arm,
                        "curve": curve,
                        "alpha": alpha,
                        "init": row % self.inits,
                        "distance": distance,
                        "flipped": flipped[row],
                    }
                )
        return {"steps": list(range(0, self.steps + 1, self.every)), "runs": runs}

    def _descend(
        self,
        arm: Arm,
        x0: Tensor,
        cases: list[tuple[str, float]],
        gram: Tensor,
        right: Tensor,
        truth: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Distances ``[measured, runs]`` and the last x, all runs side by side."""
        factors, distances = arm.split(x0), []
        alpha = torch.zeros(len(x0), 1)
        for step in range(self.steps + 1):
            x = arm.join(*factors)
            if step % self.every == 0:
                distances.append((x - truth).norm(dim=1))
                alpha = self._alphas(cases, step // self.every + 1)
            if step == self.steps:
                break
            gradient = x @ gram - right
            penalties = arm.penalty_gradient(*factors)
            losses = _loss_gradients(factors, gradient)
            factors = tuple(
                f - self.rate * (g + alpha * p)
                for f, g, p in zip(factors, losses, penalties, strict=True)
            )
        return torch.stack(distances), x

    def _alphas(self, cases: list[tuple[str, float]], k: int) -> Tensor:
        values = [
            Strength(a, c, rate=0.95, delta=1.0, l1_threshold=0.0).at(k)
            for c, a in cases
            for _ in range(self.inits)
        ]
        return torch.tensor(values)[:, None]


def _loss_gradients(factors: Factors, gradient: Tensor) -> Factors:
    """The loss's gradient in each factor: that in x, times the other factor."""
    if len(factors) == 1:
        return (gradient,)
    m, w = factors
    return gradient * w, gradient * m


def best_strengths(result: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """For each arm and curve the strength whose last distance is smallest on average.

    Args:
        result: of `Diagonal.run`.

    Returns:
        (arm, curve) -> ``alpha``, and per measured step ``mean`` and ``error`` (standard error
        over the starting points).

    Raises:
        SteppeError: no run stayed finite.
    """
    by_case: dict[tuple[str, str], dict[float, list[list[float]]]] = {}
    for run in result["runs"]:
        if None not in run["distance"]:
            key = (run["arm"], run["curve"])
            by_case.setdefault(key, {}).setdefault(run["alpha"], []).append(run["distance"])
    if not by_case:
        raise SteppeError(
            "gradient descent must stay finite",
            got="no run that did",
            way_out="a smaller rate (1e-4)",
        )
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for key, by_alpha in by_case.items():
        alpha = min(by_alpha, key=lambda a: sum(d[-1] for d in by_alpha[a]) / len(by_alpha[a]))
        paths = torch.tensor(by_alpha[alpha])
        error = paths.std(dim=0) / len(paths) ** 0.5 if len(paths) > 1 else torch.zeros(1)
        best[key] = {
            "alpha": alpha,
            "mean": paths.mean(dim=0).tolist(),
            "error": error.expand(paths.shape[1]).tolist(),
        }
    return best
