"""The line that says with which numbers a run's coupling and perturbation were at work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def at_work(parts: Mapping[str, Any], shown: Mapping[str, float]) -> list[str]:
    """A line for the screen, or none where both have nothing to say.

    Args:
        parts: axis -> part as plain data, of the run's record.
        shown: what the coupling shows of its state at the end.

    Example:
        >>> parts = {"coupling": {"name": "admm", "penalty": "auto", "interval": "auto"}}
        >>> parts |= {"perturb": {"name": "sam", "rho": 0.1}}
        >>> at_work(parts, {"interval": 2.0, "updates": 9.0})
        ['coupling admm: penalty auto, interval 2 (auto), updates 9; perturb sam: rho 0.1']
        >>> at_work({"coupling": {"name": "hard_mask"}, "perturb": {"name": "sam", "rho": 0}}, {})
        []
        >>> phases = [[0.5, {"name": "sam", "rho": 0.1}], [1.0, {"name": "none"}]]
        >>> phased = {"name": "phased", "phases": phases}
        >>> at_work({"coupling": {"name": "hard_mask"}, "perturb": phased}, {})
        ['perturb phased: sam: rho 0.1, then none']
    """
    from steppe.core.protocols import Perturb  # slow to import

    coupling, perturb = parts["coupling"], parts["perturb"]
    said = []
    if shown:
        auto = [name for name, value in coupling.items() if value == "auto"]
        words = [f"{name} auto" for name in auto if name not in shown]
        for name, value in shown.items():
            words.append(f"{name} {value:.4g}" + (" (auto)" if name in auto else ""))
        said.append(f"coupling {coupling['name']}: {', '.join(words)}")
    made = Perturb.make(dict(perturb))
    if made.active:
        phases = [_with_sizes(part.to_dict()) for part in made.parts]
        phased = len(phases) > 1
        said.append(
            f"perturb {made.name}: {', then '.join(phases)}" if phased else f"perturb {phases[0]}"
        )
    return ["; ".join(said)] if said else []


def _with_sizes(part: Mapping[str, Any]) -> str:
    """A part's name and its numbers."""
    sizes = [f"{name} {value:.4g}" for name, value in part.items() if isinstance(value, float)]
    return f"{part['name']}{': ' if sizes else ''}{', '.join(sizes)}"
