"""Which dense model a record's network was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dense_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Name and fingerprint of the model that the first pruning began with; empty where none says.

    What is recovered or trained further holds the record of what it started from as ``pruning``.

    Args:
        record: of any run.

    Example:
        >>> pruned = {"recipe": {"model": {"name": "dense"}}}
        >>> dense_of({"recipe": {"model": {"name": "pruned"}}, "pruning": pruned})
        {'name': 'dense'}
    """
    recipe = record.get("recipe")
    if not isinstance(recipe, Mapping):
        return {}
    model, recover = recipe.get("model"), recipe.get("recover")
    named = dict(model) if isinstance(model, Mapping) else {}
    if isinstance(recipe.get("dense"), Mapping):  # recovered in blocks
        return dict(recipe["dense"])
    if isinstance(recover, Mapping) and named.get("teacher"):  # recovered as a whole
        return {"name": named["teacher"], "fingerprint": recover.get("dense")}
    past = record.get("pruning")
    return dense_of(past) if isinstance(past, Mapping) and past else named


def first_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of the first pruning of a network that was pruned more than once.

    A network that was pruned before has the record of that as ``made_from``.

    Args:
        record: of any run.

    Example:
        >>> first_of({"method": "wanda", "made_from": {"method": "slim"}})
        {'method': 'slim'}
        >>> first_of({"method": "recover", "pruning": {"made_from": {"method": "slim"}}})
        {'method': 'slim'}
        >>> first_of({"method": "slim"})
        {'method': 'slim'}
    """
    made: Any = record
    while isinstance(made, Mapping):
        if isinstance(made.get("made_from"), Mapping):
            return first_of(made["made_from"])
        made = made.get("pruning") or None
    return record


def beside_first(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose ``dense`` is the first network, where this one was pruned more than once.

    Where that was measured on other texts, its quality is left out.

    Args:
        record: of any run.

    Example:
        >>> slim = {"dense": {"parameters": 9, "perplexity": 5.0}}
        >>> beside_first({"dense": {"parameters": 7}, "made_from": slim})["dense"]
        {'parameters': 9, 'perplexity': 5.0}
    """
    first = first_of(record)
    if first is record:
        return record
    dense = dict(first.get("dense") or {})
    if _texts(dense) != _texts(record.get("dense")):
        dense = {k: v for k, v in dense.items() if k not in ("perplexity", "loss", "texts")}
    return record | {"dense": dense}


def _texts(part: Any) -> list[list[Any]]:
    """What tells the texts apart on which a network was measured."""
    texts = part.get("texts") if isinstance(part, Mapping) else None
    every = texts.values() if isinstance(texts, Mapping) else ()
    return [[text.get(key) for key in ("sha256", "window", "stride")] for text in every]
