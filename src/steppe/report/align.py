"""Only like is compared with like: of each kind of measurement the options most runs share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def aligned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with, of each kind of measurement, the one that most of the runs share.

    Runs are compared only where they were measured with the same options. ``entries`` (all that
    was measured) become ``evaluations`` (kind -> result), their commands are added to
    ``commands``, what is left aside is told in ``unlike``, and ``limited`` has for what was
    measured on the first images only how many these were.

    Times need not be alike: each place has its own, so all become ``timings``, the last of each
    place beside a network of one size; what a table of layers said last stays with them.

    Args:
        records: as read.

    Example:
        >>> def run(*severities):
        ...     return {"entries": [{"on": "corruptions", "options": {"severities": s},
        ...                          "result": {"mean": float(s)}} for s in severities]}
        >>> counts = aligned([run("3"), run("3", "5")])
        >>> [r["evaluations"]["corruptions"]["mean"] for r in counts]
        [3.0, 3.0]
    """
    records = [_timed(record) for record in records]
    names = _shared(entry for record in records for entry in record.get("entries", ()))
    votes: dict[str, Counter[str]] = {}
    for record in records:
        for on, key in {(e["on"], _key(e, names)): 0 for e in record.get("entries", ())}:
            votes.setdefault(on, Counter())[key] += 1
    # of several that as many share, the one measured last
    best = {on: max(reversed(counts), key=lambda k: counts[k]) for on, counts in votes.items()}
    alike = []
    for record in records:
        entries = record.get("entries")
        if entries is None:
            alike.append(record)
            continue
        used: dict[str, Any] = {}
        for entry in entries:
            earlier = used.get(entry["on"])
            if _key(entry, names) == best[entry["on"]] and not (
                # a comparison with another run is not lost to a later plain one
                earlier and "beside" in earlier["result"] and "beside" not in entry["result"]
            ):
                used[entry["on"]] = entry
        aside = {e["on"] for e in entries} - set(used)
        limited = {on: n for on, entry in used.items() if (n := _first_only(entry))}
        alike.append(
            {k: v for k, v in record.items() if k != "entries"}
            | {
                "evaluations": {on: _plain(entry["result"]) for on, entry in used.items()},
                "commands": [
                    *record.get("commands", ()),
                    *(e["command"] for e in used.values() if e.get("command")),
                ],
                "unlike": sorted(aside),
            }
            | ({"limited": limited} if limited else {})
        )
    return alike


def _timed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its times apart from what else was measured."""
    if "entries" not in record:
        return record
    last: dict[tuple[str, ...], dict[str, Any]] = {}
    commands, others = [], []
    for entry in record["entries"]:
        result = entry["result"]
        if not isinstance(result.get("measured"), Mapping):
            others.append(entry)
            continue
        beside = [*(result.get("parameters") or ()), None][0]
        place = tuple(map(str, (result.get("device"), result.get("threads"), beside)))
        said = last.get(place, {}).get("predicted_ms")
        last[place] = ({"predicted_ms": said} if said else {}) | result
        commands.append(entry.get("command"))
    if not last:
        return record
    return record | {
        "entries": others,
        "timings": list(last.values()),
        "commands": [*record.get("commands", ()), *filter(None, dict.fromkeys(commands))],
    }


def _plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result; a comparison with another network than a dense one is left out of a report."""
    other = result.get("beside")
    dense = other is None or other.get("method", "dense") == "dense"
    return {k: v for k, v in result.items() if dense or k != "beside"}


def _first_only(entry: Mapping[str, Any]) -> int:
    """The number of images where a limit cut them off; 0 where all were measured."""
    result, limit = entry["result"], entry["options"].get("limit")
    # published corruptions are used whole: the limit is that of the clean images
    images = result.get("clean_images", result.get("images"))
    return images if isinstance(images, int) and limit is not None and images >= limit else 0


def _shared(entries: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Kind of measurement -> the options that all its entries know: a later version has more."""
    shared: dict[str, set[str]] = {}
    for entry in entries:
        own = set(entry["options"]) - {"device", "beside", "like"}
        shared[entry["on"]] = shared.get(entry["on"], own) & own
    return shared


def _key(entry: Mapping[str, Any], names: Mapping[str, set[str]]) -> str:
    """What two measurements must share to be compared."""
    own = {k: v for k, v in entry["options"].items() if k in names[entry["on"]]}
    return json.dumps(own, sort_keys=True, default=str)
