"""Families that compute the same: one may have a config for shapes that the other's refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steppe.core.errors import SteppeError
from steppe.llm.skeleton import config_of

Same = Callable[[dict[str, Any]], dict[str, Any] | None]
FAMILIES: dict[tuple[str, str], Same] = {}
"""(model_type, another) -> the other config for one, or None where they differ; one more function
is one more pair."""


def same(one: str, other: str) -> Callable[[Same], Same]:
    """Register a pair."""

    def add(function: Same) -> Same:
        FAMILIES[one, other] = function
        return function

    return add


@same("llama", "mistral")
def as_mistral(config: dict[str, Any]) -> dict[str, Any] | None:
    """Llama's config wants a hidden size that its heads divide; Mistral's has no such rule.

    Without biases and with no sliding window the two are one computation.
    """
    if config.get("attention_bias") or config.get("mlp_bias"):
        return None
    own = {"attention_bias", "mlp_bias", "pretraining_tp"}
    return {k: v for k, v in config.items() if k not in own} | {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": None,
    }


def of_family(config: dict[str, Any], family: str | None) -> dict[str, Any]:
    """A config as it is, or of another family that computes the same.

    Args:
        config: as ``config.json`` has it.
        family: the other's ``model_type``; None for none.

    Raises:
        SteppeError: the two do not compute the same.
    """
    if family is None or family == config.get("model_type"):
        return config
    function = FAMILIES.get((str(config.get("model_type")), family))
    changed = function(config) if function is not None else None
    if changed is None:
        known = others(config)
        raise SteppeError(
            "a model is written as another family where both compute the same",
            got=f"{config.get('model_type')} as {family}"
            + (", with what only one of the two has (biases)" if function is not None else ""),
            way_out=f"--family {' or '.join(known)}" if known else "no --family",
        )
    return changed | _defaults(config, changed)


def _defaults(config: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """What a config leaves to its family and the other family takes for something else."""
    one, other = (config_of(c).to_dict() for c in (config, changed))
    unsaid = (one.keys() & other.keys()) - config.keys() - changed.keys()
    return {key: one[key] for key in sorted(unsaid) if one[key] != other[key]}


def others(config: dict[str, Any]) -> list[str]:
    """Families that a model could be written as."""
    return [o for (one, o), f in FAMILIES.items() if one == config.get("model_type") and f(config)]
