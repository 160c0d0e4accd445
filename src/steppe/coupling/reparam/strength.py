"""How strong the L2 on a product's factors is: over the epochs, or as training goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from steppe.core.errors import SteppeError, unknown
from steppe.core.step_context import Epoch

_CURVES: dict[str, Callable[[int, float], float]] = {
    "constant": lambda k, rate: 1.0,
    "harmonic": lambda k, rate: 1.0 / k,
    "quadratic": lambda k, rate: 1.0 / k**2,
    "geometric": lambda k, rate: rate ** (k - 1),
}
CONTROLLED = "controlled"
DECAYS = (*_CURVES, CONTROLLED)


@dataclass(frozen=True)
class Strength:
    """alpha_k in epoch k = 1, 2, ...

    ``constant``: alpha; ``harmonic``: alpha / k; ``quadratic``: alpha / k^2; ``geometric``:
    alpha rate^(k - 1); ``controlled``: alpha <- alpha delta after an epoch whose training accuracy
    is no lower than the one before, while ||x||_1 is at least l1_threshold and at most half of the
    epochs are over; else alpha <- alpha / delta.

    Source: PILoT (ICLR 2025), algorithm 1 and section 5.
    """

    alpha: float
    decay: str
    rate: float
    delta: float
    l1_threshold: float

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise unknown("decay", self.decay, DECAYS)
        rules = {
            "alpha": (0.0 <= self.alpha < float("inf"), "finite and at least 0", 1e-4),
            "rate": (0.0 < self.rate <= 1.0, "in (0, 1]", 0.95),
            "delta": (self.delta >= 1.0, "at least 1", 1.01),
            "l1_threshold": (self.l1_threshold >= 0.0, "at least 0", 8000),
        }
        for name, (holds, rule, usual) in rules.items():
            if not holds:
                raise SteppeError(
                    f"{name} of the strength must be {rule}",
                    got=getattr(self, name),
                    way_out=f"{name} {usual}",
                )

    @property
    def watches(self) -> str:
        """What it must know, see `steppe.core.protocols.Coupling.watches`."""
        return {"constant": "", CONTROLLED: "accuracy"}.get(self.decay, "epochs")

    def at(self, k: int) -> float:
        """alpha_k of a curve, k = 1, 2, ..."""
        return self.alpha * _CURVES[self.decay](k, self.rate)

    def after(
        self, alpha: float, before: float, epoch: Epoch, length: Callable[[], Tensor]
    ) -> float:
        """The next epoch's alpha.

        Args:
            alpha: of the epoch that ended.
            before: training accuracy of the epoch before it; 0 if there was none.
            epoch: that ended.
            length: gives ||x||_1; called only if it decides.
        """
        if self.decay != CONTROLLED:
            return self.at(epoch.number + 1)
        assert epoch.accuracy is not None
        rises = epoch.accuracy >= before and 2 * epoch.number <= epoch.of
        if rises and float(length()) >= self.l1_threshold:
            return alpha * self.delta
        return alpha / self.delta
