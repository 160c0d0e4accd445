"""What will be left of a model from which something goes, in words, before any block is read."""

from __future__ import annotations

import json

from steppe.llm.prepare import PreparedPruning
from steppe.llm.skeleton import read_config
from steppe.llm.structured.choice import EXPECTATIONS
from steppe.llm.structured.choices.units import flags_of
from steppe.llm.structured.cut import CONFIG
from steppe.llm.structured.family import others
from steppe.llm.structured.planned import planned_shape
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.slim import check_cut
from steppe.llm.structured.target import accepted_heads

_NAMED = 4  # numbers of heads that a note names


def chosen_shape(prepared: PreparedPruning) -> str:
    """The shape that will be left; "" where nothing is removed.

    Args:
        prepared: the pruning.

    Raises:
        SteppeError: it cannot be.
    """
    kind = prepared.method.structure.removes
    if kind is None:
        return ""
    check_cut(prepared)
    shape = planned_shape(prepared, EXPECTATIONS[kind](prepared, prepared.texts(), False))
    return f"cut to {shape['after']['said']}, of {shape['before']['said']}"


def family_note(prepared: PreparedPruning) -> str:
    """Which numbers of heads another family would accept, to which a target did not look; or "".

    Args:
        prepared: the pruning that meets a target.
    """
    model, config = prepared.model, prepared.config
    if config.family is not None or "heads" not in prepared.method.structure.to_dict().get(
        "of", ()
    ):
        return ""
    stored = json.loads((model.folder / CONFIG).read_text(encoding="utf-8")) | flags_of(prepared)
    whole, families = Shape.of(read_config(model.folder)), others(stored)
    if not families or "heads" not in whole.cuts:
        return ""
    own = accepted_heads(stored, whole)
    for family in families:
        more = [n for n in accepted_heads(stored, whole, family) if n not in own]
        if more:
            named = [str(n) for n in reversed(more)][:_NAMED]
            return (
                f"note: of {whole.heads} heads this config lets {_or(own)} stay; --family {family} "
                f"writes a model that computes the same, of which also {', '.join(named)}"
                f"{', ...' * (len(more) > _NAMED)} may stay, so that fewer of the rest need go"
            )
    return ""


def _or(numbers: list[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
