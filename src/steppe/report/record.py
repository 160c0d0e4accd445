"""Records of runs as the report sees them: plain dicts, any key of which may be missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.hub_names import nearest
from steppe.core.serialization import damaged
from steppe.core.unfinished import goes_on, is_unfinished
from steppe.methods import display_of
from steppe.record import checked
from steppe.record.origin import beside_first, dense_of, first_of
from steppe.report.align import aligned
from steppe.report.quality import QUALITIES
from steppe.report.run_folders import again, folders

Record = Mapping[str, Any]
REMOVED = ", removed"
"""What steppe remove adds to a run's name."""


def read_records(runs: Iterable[Path | str]) -> list[dict[str, Any]]:
    """The ``record.json`` of run folders with what was measured, or JSON files themselves.

    Args:
        runs: folders of finished runs, or files holding one record.

    Returns:
        One dict per run, in the order given.

    Raises:
        SteppeError: no such file, it is not one JSON object, or it does not fit the schema.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "record.json").write_text('{"method": "safe"}')
        >>> read_records([folder])[0]["method"]
        'safe'
    """
    records: list[dict[str, Any]] = []
    for run in folders(map(Path, runs)):
        path = run / "record.json" if run.is_dir() else run
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _no_record(run, path, error) from error
        own = beside_first(checked(record, str(path)))
        records.append((_measured(run, own) if run.is_dir() else {}) | own)
    return aligned(records)


def _no_record(run: Path, path: Path, error: Exception) -> SteppeError:
    open_ = isinstance(error, FileNotFoundError) and is_unfinished(run)
    missing = "which does not exist" if not run.exists() else "where there is none"
    got = f"{run}, {missing}" if isinstance(error, FileNotFoundError) else f"{path}: {error}"
    return SteppeError(
        "a report needs the record.json of finished runs",
        got=f"{run}, which is not finished" if open_ else got,
        way_out=goes_on(run)
        if open_
        else nearest(run, Path.exists) + "name run folders that steppe train has finished",
    )


def removal_of(record: Record) -> Record | None:
    """What a record says of the removal that made its network; None of any other network.

    Example:
        >>> removed = {"source": "../halp"}
        >>> removal_of({"label": "HALP, removed", "removed": removed}), removal_of({"removed": {}})
        ({'source': '../halp'}, None)
    """
    made = REMOVED in str(record.get("label") or "")
    return find(record, "removed") or {} if made else None


def _measured(run: Path, record: Record) -> dict[str, Any]:
    """Everything that was measured of a run, and the commands."""
    path = run / "evaluations.json"
    commands = again(run, removal_of(record))
    entries: list[dict[str, Any]] = []
    try:
        if path.exists():
            entries = json.loads(path.read_text(encoding="utf-8"))
        entries = [
            {
                "on": entry["on"],
                "options": dict(entry.get("options", {})),
                "result": dict(entry["result"]),
                "command": str(entry.get("command", "")),
            }
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SteppeError(
            "evaluations.json must be as steppe evaluate wrote it",
            got=f"{path} ({error})",
            way_out="restore it, or delete it and measure again",
        ) from error
    own = run / "flatness.json"  # steppe demo measures noise and flatness on its own
    try:
        more = dict(json.loads(own.read_text(encoding="utf-8"))) if own.is_file() else {}
        flat = more.pop("flatness", None)
        result = flat and {
            "radius": flat["rho"],
            "ball": flat["sharpness"],
            "top_eigenvalue": flat["hessian_top"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(own, error) from None
    if result:
        options = {"by": "steppe demo", "radius": result["radius"]}
        entries.insert(0, {"on": "sharpness", "options": options, "result": result, "command": ""})
    return {**more, "entries": entries, "commands": commands}


def setting_of(record: Record) -> str:
    """The network and the data in words; "" where the record does not say.

    Of a pruned network that was recovered or trained further, the dense one that it was made from.

    Example:
        >>> setting_of({"recipe": {"model": {"name": "resnet20"}, "data": {"name": "a/cifar10"}}})
        'resnet20 on cifar10'
    """
    names = [dense_of(first_of(record)).get("name"), find(record, "recipe.data.name")]
    return " on ".join(_last_of_path(str(name)) for name in names if name)


def _last_of_path(name: str) -> str:
    """A name without the folders before it, so that one place has one name by whatever path.

    Example:
        >>> _last_of_path("a/b/"), _last_of_path("voc:/x/VOC2007,/x/VOC2012"), _last_of_path("a:b")
        ('b', 'voc:VOC2007,VOC2012', 'a:b')
    """
    kind, colon, rest = name.rpartition(":")
    if rest.startswith("//"):  # an address
        kind = colon = ""
    return kind + colon + ",".join(part.rstrip("/").rpartition("/")[2] for part in rest.split(","))


def find(record: Record, path: str) -> Any:
    """What lies at a dotted path, or None.

    Example:
        >>> find({"sparse": {"loss": 0.1}}, "sparse.loss"), find({}, "sparse.loss")
        (0.1, None)
    """
    value: Any = record
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def number(record: Record, path: str) -> float | None:
    """The finite number at a dotted path, or None; of a list, its first.

    Example:
        >>> number({"flatness": {"hessian_top": [3.0, 1.0]}}, "flatness.hessian_top")
        3.0
    """
    value = find(record, path)
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def first(record: Record, *paths: str) -> float | None:
    """The number at the first of the paths that has one.

    Example:
        >>> first({"b": {"c": 2}}, "a", "b.c")
        2.0
    """
    return next((v for path in paths if (v := number(record, path)) is not None), None)


def method_of(record: Record) -> str:
    """The record's ``label``, or its method's name; after that of what it started from.

    Example:
        >>> method_of({"method": {"name": "safe"}}), method_of({})
        ('safe', 'unnamed')
        >>> method_of({"method": "recover", "pruning": {"method": "wanda"}})
        'wanda, then recover'
        >>> slim = {"method": "slim", "sparsity_asked": 0.25}
        >>> method_of({"method": "wanda", "made_from": slim})
        'slim 25 %, then wanda'
    """
    method = record.get("label") or record.get("method")
    if isinstance(method, Mapping):
        method = method.get("name")
    name = str(method or "unnamed")
    past = record.get("pruning")
    if isinstance(past, Mapping) and past and not record.get("label"):
        return f"{method_of(past)}, then {name}"
    if (made := record.get("made_from")) and not record.get("label"):
        return f"{method_of(made)}{_share(made)}, then {name}"
    return "dense" if name.lower() == "dense" else name


def _share(record: Record) -> str:
    where = sparsity_of(record)
    return "" if where is None else f" {100 * where:.3g} %"


def display(record: Record) -> str:
    """What a run's method is called on the page: its ``label``, else its display name.

    A record from before ``method_display`` gets the name that the method of that name has today.

    Example:
        >>> display({"method": "safe_plus"}), display({"method": "mine"})
        ('SAFE+', 'mine')
        >>> display({"method": "mine", "method_display": "Mine"})
        'Mine'
        >>> display({"method": "mine", "made_from": {"method": "slim", "sparsity_asked": 0.25}})
        'Slim 25 %, then mine'
    """
    name = method_of(record)
    if record.get("label") or name == "dense":
        return name
    past, made = record.get("pruning") or {}, record.get("made_from")
    while made is None and past:
        past, made = past.get("pruning") or {}, past.get("made_from")
    own = method_of({k: v for k, v in record.items() if k != "made_from"})
    shown = str(record.get("method_display") or display_of(own))
    return f"{display(made)}{_share(made)}, then {shown}" if made else shown


def displays(records: Iterable[Record]) -> dict[str, str]:
    """Method, as `method_of` names it, to what it is called on the page; in their order.

    Example:
        >>> displays([{"method": "gmp"}, {"method": "dense"}, {"method": "gmp"}])
        {'gmp': 'GMP', 'dense': 'dense'}
    """
    names: dict[str, str] = {}
    for record in records:
        names.setdefault(method_of(record), display(record))
    return names


def is_dense(record: Record) -> bool:
    """Whether the run pruned nothing.

    Example:
        >>> is_dense({"method": "dense"})
        True
    """
    return method_of(record) == "dense"


def sparsity_of(record: Record) -> float | None:
    """The fraction of zeros asked for; where none was, the one reached to four digits.

    Example:
        >>> sparsity_of({"sparsity_asked": None, "sparsity_reached": 0.50001})
        0.5
    """
    asked = number(record, "sparsity_asked")
    reached = number(record, "sparsity_reached")
    return asked if asked is not None else None if reached is None else round(reached, 4)


def curve_of(record: Record) -> list[Record]:
    """The rows of a training curve: ``curve``, or ``metrics`` as `steppe train` writes them."""
    rows = record.get("curve") or record.get("metrics")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def sigmas_of(records: Sequence[Record]) -> list[tuple[float, str]]:
    """The strengths of noise that any record was tried on, ascending, with their key.

    Example:
        >>> sigmas_of([{"noise": {"0.2": 0.5, "0.1": 0.7}}])
        [(0.1, '0.1'), (0.2, '0.2')]
    """
    sigmas: dict[float, str] = {}
    for record in records:
        noise = record.get("noise")
        for key in noise if isinstance(noise, Mapping) else ():
            try:
                sigmas.setdefault(float(key), str(key))
            except (TypeError, ValueError):
                continue
    return sorted(sigmas.items())


def noise_of(record: Record, sigma: float) -> float | None:
    """Accuracy under noise of that strength; the key may be a number or text, 0.1 or 0.10."""
    noise = record.get("noise")
    for key, value in noise.items() if isinstance(noise, Mapping) else ():
        try:
            if float(key) == sigma:
                return number({"value": value}, "value")
        except (TypeError, ValueError):
            continue
    return None


def wrong_labels(record: Record) -> float:
    """The share of training labels that the recipe made wrong.

    Example:
        >>> wrong_labels({"recipe": {"data": {"label_noise": {"rate": 0.5}}}}), wrong_labels({})
        (0.5, 0.0)
    """
    return number(record, "recipe.data.label_noise.rate") or 0.0


def radii_of(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Norms and radii of the attacks that any network was under; the norms in their order."""
    radii: dict[str, set[str]] = {}
    for record in records:
        norms = find(record, "evaluations.attacks.accuracy")
        for norm, cells in norms.items() if isinstance(norms, Mapping) else ():
            radii.setdefault(norm, set()).update(cells)
    return [(norm, eps) for norm, norms in radii.items() for eps in sorted(norms, key=float)]


def robust_accuracy(record: Record, norm: str, eps: str) -> float | None:
    """Accuracy under attack in one ball; None where probes say that it cannot be trusted."""
    shares = find(record, f"evaluations.attacks.accuracy.{norm}")
    if attack_doubt(record, norm, eps) or not isinstance(shares, Mapping):
        return None
    # the key holds a point itself, so it is no path
    return number({"value": shares.get(eps)}, "value")


def attack_doubt(record: Record, norm: str, eps: str) -> str:
    """Why an accuracy under attack cannot be trusted; "" where it can, or was not looked at."""
    probes = find(record, f"evaluations.attacks.probes.{norm}")
    probe = probes.get(eps) if isinstance(probes, Mapping) else None
    return str(probe.get("doubt") or "") if isinstance(probe, Mapping) else ""


def dense_records(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What is known of the dense network, one record per seed.

    A run of the method ``dense`` counts first; else the ``dense`` part of the sparse runs of that
    seed, if it holds a quality and not only sizes.

    Example:
        >>> dense_records([{"method": "safe", "seed": 0, "dense": {"accuracy": 0.9}}])[0]["sparse"]
        {'accuracy': 0.9}
    """
    trained = [r for r in records if is_dense(r)]
    if trained:
        return [
            {**r, "sparse": {**(find(r, "dense") or {}), **(find(r, "sparse") or {})}}
            for r in trained
        ]
    distinct: dict[Any, dict[str, Any]] = {}
    for record in records:
        part = record.get("dense")
        if isinstance(part, Mapping) and any(
            number(part, quality.key) is not None for quality in QUALITIES
        ):
            parts = {key: part[key] for key in ("flatness", "noise") if key in part}
            seed = record.get("seed")
            own = {"method": "dense", "seed": seed, "sparse": dict(part), **parts}
            distinct.setdefault(json.dumps(seed, default=str), own)
    return list(distinct.values())
