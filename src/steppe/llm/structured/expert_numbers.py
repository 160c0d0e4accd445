"""How many experts a mixture may have for its router to choose as it does."""

from __future__ import annotations

from typing import Any

from steppe.core.errors import SteppeError
from steppe.removal.mixtures import CHOSEN, GROUPS, GROUPS_CHOSEN, Mixture


def numbers_of_experts(mixture: Mixture, config: Any) -> list[int]:
    """How many experts a mixture may have for its router to choose as it does, ascending.

    Args:
        mixture: as it is.
        config: of the part of the model that speaks, which may say to how many a token is sent.

    Raises:
        SteppeError: it is not known to how many.
    """
    chosen = chosen_of(mixture, config)
    groups, from_groups = groups_of(mixture)

    def fits(stay: int) -> bool:
        each, rest = divmod(stay, groups)
        several = groups == 1 or each >= 2
        return not rest and several and each * from_groups >= chosen

    return [n for n in range(1, mixture.count + 1) if fits(n)]


def groups_of(mixture: Mixture) -> tuple[int, int]:
    """Groups of neighbouring experts, and of how many of these each token's experts are."""
    groups = mixture.size(GROUPS) or 1
    return groups, mixture.size(GROUPS_CHOSEN) or groups


def chosen_of(mixture: Mixture, config: Any) -> int:
    """To how many experts each token is sent."""
    in_config = (v for n in CHOSEN if isinstance(v := getattr(config, n, None), int))
    chosen = mixture.size(CHOSEN) or next(in_config, None)
    if chosen is None:
        raise SteppeError(
            "experts are removed where it is known to how many each token is sent",
            got=f"the router {mixture.name}, which says no {', '.join(CHOSEN)}",
            way_out="structure neurons",
        )
    return chosen
