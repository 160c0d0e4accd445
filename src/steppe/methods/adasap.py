"""AdaSAP: importance-scaled perturbation, then channels go, then a uniform radius."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.perturb.adasap import AdaSap
from steppe.perturb.asam import Asam
from steppe.perturb.phased import Phased
from steppe.perturb.sam import Sam
from steppe.schedule.exponential import Exponential


@published("adasap", "AdaSAP")
def adasap(
    sparsity: float | None = None,
    rho_min: float = 0.01,
    rho_max: float = 2.0,
    rho: float = 2.0,
    adaptive: bool = True,
    warmup: float = 10 / 90,
    pruned: float = 11 / 90,
    every: int = 30,
    scope: str = "network",
    norm: str = "global",
    psi: ScoreSpec = "l2",
    rho_rest: float | None = None,
    score: ScoreSpec = "l2",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "channel",
) -> Method:
    """Three phases: adaptive warm-up, a cut every n steps, robustness encouragement.

    Args:
        sparsity: fraction that is gone at the end: of what the run counts (parameters,
            multiply-adds, latency) for channels, of the weights if unstructured.
        rho_min, rho_max: radii of the most and of the least important neuron until all is pruned.
        rho: the radius of all neurons after that.
        adaptive: radii in units of each weight's size (ASAM); the paper's settings without it are
            rho_max 0.1 and rho 0.05.
        warmup: fraction of the run before the first cut.
        pruned: fraction at which the last is made; the same share of what remains goes each time.
        every: steps between two cuts.
        scope, norm, rho_rest: see `steppe.perturb.adasap`.
        psi: the score of neurons from which their radii come.
        score: what is pruned goes by; l2 is AdaSAP_P's criterion.
        budget: pooled; latency_knapsack is AdaSAP_L's.
        structure: channel; unstructured, which the paper leaves open, works too.

    Source: AdaSAP, Algorithms 1 and 2; docs/methods.md says what is read differently.
    """
    uniform = Asam(rho=rho) if adaptive else Sam(rho=rho)
    radii = AdaSap(
        rho_min=rho_min,
        rho_max=rho_max,
        rho_rest=rho_rest,
        adaptive=adaptive,
        scope=scope,
        norm=norm,
        psi=psi,
    )
    return Method(
        name="adasap",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Exponential(start=warmup, end=pruned, every=every),
        coupling=HardMask(),
        perturb=Phased(phases=((pruned, radii), (1.0, uniform))),
    )
