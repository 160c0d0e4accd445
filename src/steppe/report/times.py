"""Times of one input: of each device and number of threads on their own, beside dense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from steppe.core.speed import Speed
from steppe.core.text import counted
from steppe.report.column import Column
from steppe.report.level import after, level_of
from steppe.report.record import REMOVED, Record, display, find, is_dense, number

HEAD = (
    "Run",
    "Seed",
    "Measured, ms",
    "Times as fast as dense",
    "Surely faster",
    "Predicted, ms",
    "Predicted times as fast",
)
_END = "when the runs ended, each on its own machine"
_SHARE = "median of one ratio for each turn, in which both networks are timed"


@dataclass(frozen=True, order=True)
class Place:
    """Where a time was taken; times of two places are never averaged.

    Args:
        device: its name.
        threads: of the processor; 0: not recorded.

    Example:
        >>> Place("EPYC", 1).text, Place("EPYC", 8).text
        ('EPYC, 1 thread', 'EPYC, 8 threads')
    """

    device: str
    threads: int

    @property
    def text(self) -> str:
        """Device and threads."""
        threads = f", {counted(self.threads, 'thread')}" if self.threads else ""
        return f"{self.device}{threads}"


def place_of(result: Mapping[str, Any]) -> Place:
    """Where a result of ``--on latency`` was measured."""
    threads = result.get("threads")
    device = str(result.get("device") or "a device that was not recorded")
    return Place(device, threads if isinstance(threads, int) else 0)


def timings(record: Record) -> dict[Place, Mapping[str, Any]]:
    """The results of ``--on latency``, the last of each place, beside a dense network."""
    results = record.get("timings")
    dense = number(record, "dense.parameters")
    found = {}
    for result in results if isinstance(results, list | tuple) else ():
        sizes = result.get("parameters") or [dense]
        if dense is None or sizes[0] == dense:  # else it stood beside another network
            found[place_of(result)] = result
    return found


def speed_of(record: Record, place: Place | None) -> Speed | None:
    """How the time of one input compares with dense; None where that was not taken in turns.

    Args:
        record: of a run.
        place: where it was measured; None: when the run ended.
    """
    if place is None:
        return Speed.read(find(record, "speed.one"))
    return Speed.read(timings(record).get(place, {}).get("measured"))


def share(record: Record, place: Place | None = None, many: bool = False) -> float | None:
    """The time of one input as a share of the dense network's, in %; None where not known.

    Args:
        record: of a run.
        place: see `speed_of`.
        many: of 64 inputs, when the run ended.

    Example:
        >>> share({"dense": {"latency_ms": 4.0}, "sparse": {"latency_ms": 3.0}})
        75.0
    """
    if is_dense(record):
        return None
    speed = Speed.read(find(record, "speed.many")) if many else speed_of(record, place)
    if speed is not None:
        return 100 / speed.ratio
    if place is not None:
        return None
    end = "latency_ms_64" if many else "latency_ms"  # of an earlier version, not taken in turns
    dense, own = (number(record, f"{part}.{end}") for part in ("dense", "sparse"))
    return 100 * own / dense if own is not None and dense else None


def predictions(record: Record) -> dict[float, float]:
    """What tables of layers say of one batch: dense network -> this one, in ms.

    Of two tables, or batches, a dense network has two times: so tables are told apart by what they
    say of it, wherever their files lie.
    """
    pairs = [find(record, "removed.cost") if find(record, "removed.target") == "ms" else None]
    pairs += [result.get("predicted_ms") for result in timings(record).values()]
    return {
        float(f"{pair[0]:.6g}"): float(pair[1])
        for pair in pairs
        if isinstance(pair, list | tuple) and len(pair) == 2
    }


def images_predicted(records: Sequence[Record], dense: float) -> str:
    """How many images a table's time is of by which the dense network takes ``dense`` ms.

    What a run was pruned by may be of a batch, the only one of its table where the recipe says
    none; steppe evaluate asks for the time of one image.

    Example:
        >>> run = {"removed": {"target": "ms", "cost": [0.8, 0.5]}}
        >>> images_predicted([run | {"recipe": {"channels": {"batch": 64}}}], 0.8)
        '64 images'
        >>> images_predicted([run], 0.8)
        'one batch'
    """
    if any(dense in predictions({**r, "removed": None}) for r in records):
        return "one image"
    batches = (number(r, "recipe.channels.batch") for r in records if dense in predictions(r))
    known = next((int(batch) for batch in batches if batch is not None), None)
    return "one batch" if known is None else "one image" if known == 1 else f"{known} images"


def places(records: Sequence[Record]) -> list[Place]:
    """Where pruned runs were timed, the place of most first."""
    votes = Counter(p for r in records if not is_dense(r) for p in timings(r))
    return sorted(votes, key=lambda place: (-votes[place], place))


def usual_place(records: Sequence[Record]) -> Place | None:
    """Where all of some runs were timed; None: nowhere, so the ends of the runs are compared.

    Of a run from which channels were removed the smaller network is timed.
    """
    runs = to_be_timed(records)
    return next((p for p in places(runs) if all(p in timings(r) for r in runs)), None)


def to_be_timed(records: Sequence[Record]) -> list[Record]:
    """The pruned networks, without those that stand here without their zero channels too."""
    smaller = {(display(r), level_of(r), str(r.get("seed"))) for r in records}
    return [
        r
        for r in records
        if not is_dense(r)
        and (display(r) + REMOVED, level_of(r), str(r.get("seed"))) not in smaller
    ]


def time_key(place: Place | None) -> str:
    """The column of the times that were taken in a place; None: when the runs ended."""
    return "time" if place is None else f"timed {place.text}"


def time_columns(records: Sequence[Record]) -> list[Column]:
    """Shares of the dense time, a column for each place; predicted times, one for each table."""
    runs = "median over paired turns; of networks that only have zeros it is noise around 100"
    columns = [
        Column(
            "time", "Time at the run's end, of dense, %", share, 1.0, 1, f"of one input, {runs}"
        ),
        Column("time_64", "Time of 64, of dense, %", partial(share, many=True), 1.0, 1),
    ]
    columns += [
        Column(
            time_key(place),
            f"Time, {place.text}, of dense, %",
            partial(share, place=place),
            1.0,
            1,
            f"of one input, by steppe evaluate --on latency: {_SHARE}",
        )
        for place in places(records)
    ]
    known = sorted({dense for r in records for dense in predictions(r)})
    tables = [(dense, images_predicted(records, dense)) for dense in known]
    return columns + [
        Column(
            f"predicted {dense:g}",
            f"Predicted latency{f', {many}' * many.endswith('images')} (dense {dense:.4g}), ms",
            partial(_predicted, dense=dense),
            means=f"time of {many} by a table of layers by which dense takes {dense:.4g} ms",
        )
        for dense, many in tables
    ]


def _predicted(record: Record, dense: float) -> float | None:
    return predictions(record).get(dense)


def time_tables(records: Sequence[Record]) -> list[tuple[str, list[list[str]]]]:
    """Milliseconds, a row for each run; the ends of runs that were timed nowhere else.

    Dense has none of its own: the median of each in turns on a busy machine may contradict the
    median of their ratios, which is what is claimed.

    Returns:
        For each place a caption, and rows under `HEAD`.
    """
    runs = [r for r in records if not is_dense(r)]
    tables = []
    for place in [*places(runs), None]:
        own = [r for r in runs if place is not None or not timings(r)]
        rows = [_row(r, place) for r in own if speed_of(r, place) is not None]
        if rows:
            where = _END if place is None else f"{place.text}, by steppe evaluate --on latency"
            tables.append((f"Time of one input: {where}", rows))
    return tables


def _row(record: Record, place: Place | None) -> list[str]:
    speed = speed_of(record, place)
    assert speed is not None, "only runs that were timed have a row"
    pair = timings(record).get(place, {}).get("predicted_ms") if place is not None else None
    bounds = f"{speed.ratio:.2f}"
    if speed.low > 0 and speed.high < 1e8:
        bounds += f" ({speed.low:.2f} to {speed.high:.2f})"
    return [
        after(f"{display(record)},", level_of(record)).removesuffix(","),
        str(record.get("seed", "–")),
        f"{speed.sparse_ms:.3g}",
        bounds,
        "yes" if speed.claimed else "no",
        *([f"{pair[1]:.3g}", f"{pair[0] / pair[1]:.2f}"] if pair else ["–", "–"]),
    ]
