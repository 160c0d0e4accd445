"""Runs of one method that are not the same method: each gets a name of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steppe.report.level import Level, level_of
from steppe.report.options import method_defaults, method_options, named, recipe_options
from steppe.report.record import REMOVED, Record, display, is_dense, method_of

_PERTURB = "perturb.name"


def told_apart(records: Sequence[Record]) -> list[Record]:
    """Records with a ``label`` where their method's name does not say what was run.

    A perturbation that is not the method's own is always named. Any other option of the method is
    where two runs of one method and sparsity differ in it, unless it has its default. Where two of
    these have the same seed too, so is whatever else of their recipes differs: learning rate,
    tokens, data. What has a label keeps it, but for ``, removed`` of steppe remove: that is said of
    whatever the run is called.

    Args:
        records: as `Rows.from_records` takes them.

    Example:
        >>> def run(**more):
        ...     return {"method": "taylor", "sparsity_asked": 0.5, "recipe": {"method": more}}
        >>> runs = [run(), run(perturb={"name": "sam", "rho": 0.1}), run(every=5), run()]
        >>> [r.get("label") for r in told_apart(runs)]
        [None, 'Taylor + SAM', 'Taylor, every 5', None]
        >>> runs = [{"method": "gmp", "seed": 0, "recipe": {"train": {"lr": lr}}} for lr in (1, 2)]
        >>> [r["label"] for r in told_apart(runs)]
        ['GMP, lr 1', 'GMP, lr 2']
    """
    given, records = records, [_unlabelled(r) for r in records]
    ends = ["" if r is g else REMOVED for r, g in zip(records, given, strict=True)]
    open_ = [i for i, r in enumerate(records) if not (r.get("label") or is_dense(r))]
    names = [method_of(r) for r in records]  # what differs is said of a run and of its copy alike
    options = {i: method_options(records[i]) for i in open_}
    recipes = {i: recipe_options(records[i]) for i in open_}
    groups: dict[tuple[str, Level | None], list[int]] = {}
    for i in open_:
        groups.setdefault((names[i], level_of(records[i])), []).append(i)
    differ: dict[str, set[str]] = {}
    beside: dict[str, set[str]] = {}
    for (method, _), members in groups.items():
        differ.setdefault(method, set()).update(_differing([options[i] for i in members]))
        for alike in _same_seed(records, members):
            more = _unlike([recipes[i] for i in alike])
            beside.setdefault(method, set()).update(more)
    result = list(records)
    known: dict[str, list[list[Any]]] = {}  # label -> the values that it stands for
    for i in open_:
        record, method = records[i], names[i]
        default, also = method_defaults(record), sorted(beside[method])
        shown = differ[method] | beside[method]
        said = _said(options[i], default, differ[method], shown)
        for key in also:
            said += f", {named(key, recipes[i][key], shown)}" if key in recipes[i] else ""
        if said or ends[i]:
            label = display(record) + said + ends[i]
            values = [options[i].get(key, default.get(key)) for key in sorted(differ[method])]
            values += [recipes[i].get(key) for key in also]
            meant = known.setdefault(label, [])
            if values not in meant:
                meant.append(values)
            number = meant.index(values) + 1  # files of one name, long lists with the same ends
            result[i] = {**record, "label": label + (f" ({number})" if number > 1 else "")}
    return result


def _unlabelled(record: Record) -> Record:
    """A record without the label that steppe remove gave it, if it has that one."""
    label = str(record.get("label") or "")
    if not label.endswith(REMOVED):
        return record
    plain = {k: v for k, v in record.items() if k != "label"}
    return plain if label == display(*told_apart([plain])) + REMOVED else record


def _said(
    own: Mapping[str, Any], default: Mapping[str, Any], differ: set[str], shown: set[str]
) -> str:
    """What the name of a run says more than its method's."""
    usual = default.get(_PERTURB, "none")
    perturb = own.get(_PERTURB, usual)
    text = ""
    if perturb != usual:
        called = re.sub(r"\b[am]?sam\b", lambda m: m[0].upper(), str(perturb).replace("_", " "))
        text = f" + {called}" if usual == "none" else f" with {called}"
        text = " without perturbation" if perturb == "none" else text
    for key in sorted(differ - {_PERTURB}):
        value = own.get(key, default.get(key))
        if value != default.get(key):
            text += f", {named(key, value, shown)}"
    return text


def _differing(options: Sequence[Mapping[str, Any]]) -> set[str]:
    """The options that are not the same in all; of a part, in those that have this part."""
    differ = set()
    for key in {key for own in options for key in own}:
        part = f"{key.rpartition('.')[0]}.name"
        first: dict[Any, Any] = {}
        for own in options:
            of_part = None if part == key else own.get(part)
            if first.setdefault(of_part, own.get(key)) != own.get(key):
                differ.add(key)
    return differ


def _same_seed(records: Sequence[Record], members: Iterable[int]) -> list[list[int]]:
    """Of these runs those that share a seed."""
    seeds: dict[str, list[int]] = {}
    for i in members:
        seeds.setdefault(json.dumps(records[i].get("seed"), default=str), []).append(i)
    return list(seeds.values())


def _unlike(recipes: Sequence[Mapping[str, Any]]) -> set[str]:
    """The options of which the recipes that know them have not the same value."""
    return {
        key
        for key in {key for own in recipes for key in own}
        if len({json.dumps(own[key], default=str) for own in recipes if key in own}) > 1
    }
