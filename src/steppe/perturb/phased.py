"""One perturbation after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.protocols import Perturb

if TYPE_CHECKING:
    from steppe.method import Method


@Perturb.registry.register("phased")
@dataclass(frozen=True, kw_only=True)
class Phased(Perturb):
    """Each of several perturbations up to its share of the run.

    Args:
        phases: ``(until, perturbation)``, until rising to 1; a perturbation may be given by its
            name or as ``{"name": ..., option: value}``. The default is AdaSAP's: 10 epochs of
            warm-up and one of pruning, of 90.

    Source: AdaSAP's three phases; the optimiser knows nothing of them.

    Example:
        >>> two = Phased(phases=((0.1, "adasap"), (1.0, {"name": "asam", "rho": 2.0})))
        >>> two.at(0.05).name, two.at(0.5).rho
        ('adasap', 2.0)
    """

    phases: tuple[Any, ...] = (
        (11 / 90, {"name": "adasap"}),
        (1.0, {"name": "asam", "rho": 2.0}),
    )
    name = "phased"

    def __post_init__(self) -> None:
        try:
            made = tuple((float(until), Perturb.make(part)) for until, part in self.phases)
        except (TypeError, ValueError) as error:
            raise SteppeError(
                "phases are pairs of a share of the run and a perturbation",
                got=f"{self.phases!r} ({error})",
                way_out="phases: [[0.1, adasap], [1.0, asam]]",
            ) from None
        ends = [until for until, _ in made]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0.0 or ends[-1] != 1.0:
            raise SteppeError(
                "phases end at rising shares of the run, the last at 1",
                got=repr(ends),
                way_out="phases: [[0.1, adasap], [1.0, asam]]",
            )
        object.__setattr__(self, "phases", made)

    @property
    def active(self) -> bool:
        return any(part.active for _, part in self.phases)

    @property
    def parts(self) -> tuple[Perturb, ...]:
        return tuple(part for _, part in self.phases)

    def fits(self, method: Method) -> None:
        for part in self.parts:
            part.check_fits(method)

    def changed_since(self, stored: Mapping[str, Any], method: Method) -> str:
        earlier = [part for _, part in stored["phases"]]
        said = (p.changed_since(e, method) for p, e in zip(self.parts, earlier, strict=True))
        return "; ".join(filter(None, said))

    def for_network(self, model: nn.Module, groups: Sequence[Group]) -> tuple[Perturb, list[str]]:
        forms = [(until, *part.for_network(model, groups)) for until, part in self.phases]
        said = [sentence for _, _, own in forms for sentence in own]
        return Phased(phases=tuple((until, part) for until, part, _ in forms)), said

    def at(self, progress: float) -> Perturb:
        # a run that goes on past its end stays in the last phase
        last: Perturb = self.phases[-1][1]
        return next((part for until, part in self.phases if progress < until), last)

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        return self.at(0.0).perturbation(weights, grads, names)

    def to_dict(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {
            "name": self.name,
            "phases": [[until, part.to_dict()] for until, part in self.phases],
        }
