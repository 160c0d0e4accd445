"""How fast a language model writes here, dense and sparse, in turns and in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.speed import Speed
from steppe.core.text import counted
from steppe.engine.progress import advanced
from steppe.sparse.format import check_format

REASON = "zeros are neither stored nor read"
ENOUGH = 8
"""Turns from which on `Speed` bounds the median of their ratios, and so from which on a gain can be
claimed: the least of 8 is below the true median unless 8 fair coins show heads, 0.4 %."""
REFUSED = 2
"""Exit code of a worker that was given a wrong model or option; its error is on stdout, as JSON."""
NEAR = 1.25
"""A dense dtype that took no longer than this many times the fastest in the first look stays."""
_MEMORY = ("before_bytes", "resident_bytes", "written_bytes")
_TIMES = {"generation": "token_ms", "prompt": "prompt_ms"}
Worker = Callable[[dict[str, Any]], dict[str, Any]]
"""What measures one model: see `steppe.llm.generation_worker.measured`."""
Turn = dict[str, dict[str, Any]]
"""What each arm's process measured, of a pruned model and the dense one."""
Arm = tuple[str, str]
"""A model and a dtype."""
_DENSE = ""
"""The dense model in an arm."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is written, and how often.

    Args:
        prompt: tokens that are read first.
        tokens: tokens that are written after the first.
        batches: sequences at once.
        threads: of the processor; torch's own number if None.
        turns: fresh processes of each model; one ratio comes of each turn.
        repeats: texts that each process writes; their median counts.
    """

    prompt: int = 64
    tokens: int = 32
    batches: tuple[int, ...] = (1, 4)
    threads: int | None = None
    turns: int = ENOUGH
    repeats: int = 3


def in_fresh_process(wanted: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own.

    Raises:
        SteppeError: the model or an option is wrong, or the process failed; with its last line.
    """
    command = [sys.executable, "-m", "steppe.llm.generation_worker", json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, REFUSED):
        killed = f"ended by signal {-done.returncode}" if done.returncode < 0 else ""
        said = killed or (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise SteppeError(
            "a model that is timed must load and write",
            got=f"{wanted['model']}, {wanted['sparse']}, {wanted['dtype']}: {said}",
            way_out="if memory ran out, --dtypes bfloat16, or a shorter --prompt and fewer "
            "--batches; else steppe evaluate it on a text to see more",
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if done.returncode:
        raise SteppeError(result.pop("rule"), **result)
    return result


def check_packed(format: str) -> None:
    """Whether matrices can be packed so.

    Raises:
        SteppeError: there is no such format, or it packs nothing.
    """
    check_format(format)
    if format == "dense":
        raise SteppeError(
            "packed matrices are timed beside dense ones",
            got="--sparse dense",
            way_out="leave it out, or --sparse bits",
        )


def compare_speed(
    sparse: str,
    dense: str,
    *,
    format: str = "auto",
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    setting: Setting | None = None,
    worker: Worker = in_fresh_process,
) -> dict[str, Any]:
    """A pruned model beside a dense one; see `compare_speeds`.

    Args:
        sparse: folder of the pruned model.
        dense: folder that is loaded with dense matrices; may be the same.
        format, dtypes, setting, worker: as there.
    """
    options: dict[str, Any] = {"dtypes": dtypes, "setting": setting, "worker": worker}
    return compare_speeds([sparse], dense, format=format, **options)[sparse]


def compare_speeds(
    runs: Sequence[str],
    dense: str,
    *,
    format: str = "auto",
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    setting: Setting | None = None,
    worker: Worker = in_fresh_process,
) -> dict[str, dict[str, Any]]:
    """Pruned models beside a dense one, in the dtypes in which each is fastest.

    Of several dtypes, one process of each arm is looked at first. The fastest arm of each pruned
    model stays for the turns, and every dense one within `NEAR` of the fastest. A turn starts one
    process after the other, every other turn in the other order. Texts of one process are not
    independent, so a turn gives one ratio, of the medians of its two processes. What is claimed
    compares with that dense arm which was the fastest over all turns.

    Args:
        runs: folders of the pruned models.
        dense: folder that is loaded with dense matrices; may be one of them.
        format: of the pruned ones' matrices, see `steppe.load`.
        dtypes: float32, bfloat16, float16.
        setting: what is written.
        worker: measures one model.

    Returns:
        For each folder ``arms`` with the medians of each, ``speed`` by batch (``generation``,
        ``prompt``: a `Speed` and its ``ratios``), ``formats`` of the layers, ``same_text`` for
        each dtype.
    """
    own = setting or Setting()
    models = ((_DENSE, dense, "dense"), *((run, run, format) for run in runs))
    common = {
        "prompt": own.prompt,
        "tokens": own.tokens,
        "batches": list(own.batches),
        "threads": own.threads,
        "repeats": own.repeats,
    }
    wanted = {
        (who, dtype): {"model": where, "sparse": how, "dtype": dtype} | common
        for dtype in dtypes
        for who, where, how in models
    }
    if format == "auto":  # what is chosen by measuring is remembered before anything counts
        choosing = {arm: asked for arm, asked in wanted.items() if arm[0] != _DENSE}
        _each(choosing, worker, "choosing formats", {"batches": []})
    look = _each(wanted, worker, "first look at each dtype") if len(dtypes) > 1 else {}
    stays = _kept(look, own.batches) if look else list(wanted)
    turns: list[dict[Arm, dict[str, Any]]] = []
    for number in range(own.turns):
        turn: dict[Arm, dict[str, Any]] = {}
        for place, arm in enumerate(stays if number % 2 == 0 else reversed(stays)):
            advanced("timing", number * len(stays) + place, own.turns * len(stays), "processes")
            turn[arm] = worker(wanted[arm])
        turns.append(turn)
    advanced("timing", own.turns * len(stays), own.turns * len(stays), "processes")
    return {
        run: _result(_beside(look, run), [_beside(turn, run) for turn in turns], dtypes, own)
        | {"setting": common | {"turns": own.turns}}
        for run in runs
    }


def _beside(measured: dict[Arm, dict[str, Any]], run: str) -> Turn:
    """What was measured of one pruned model and of the dense one."""
    kinds = {_DENSE: "dense", run: "sparse"}
    return {f"{kinds[who]} {t}": value for (who, t), value in measured.items() if who in kinds}


def _result(
    look: Turn, turns: list[Turn], dtypes: tuple[str, ...], setting: Setting
) -> dict[str, Any]:
    arms = list(look or turns[0])
    processes = {n: [t[n] for t in turns] if n in turns[0] else [look[n]] for n in arms}
    speed = {str(batch): _speeds(look, turns, str(batch)) for batch in setting.batches}
    first = speed[str(setting.batches[0])]["generation"]["sparse"]
    return {
        "arms": {
            name: _summary(each, setting.prompt) | {"turns": len(turns) if name in turns[0] else 0}
            for name, each in processes.items()
        },
        "speed": speed,
        "formats": processes[first][-1]["formats"],
        "same_text": {dtype: _same_text(processes, dtype) for dtype in dtypes},
    }


def verdict(speed: dict[str, Any]) -> str:
    """What the turns say of a gain, and what it takes to say more.

    Args:
        speed: of `compare_speed`: ``claimed``, ``low``, ``high`` and ``turns``.

    Example:
        >>> verdict({"claimed": False, "low": 0.0, "high": 1e9, "turns": 3})
        'not surely faster: 3 turns bound nothing, --turns 8 do'
    """
    low, high, turns = speed["low"], speed["high"], speed["turns"]
    if turns < ENOUGH:
        few = f"{counted(turns, 'turn')} bound{'s' * (turns == 1)} nothing"
        return f"not surely faster: {few}, --turns {ENOUGH} do"
    bounds = f"{low:.2f}x to {high:.2f}x in {turns} turns"
    if speed["claimed"]:
        return f"surely faster: {bounds}"
    if high < 1.0:
        return f"surely slower: {bounds}"
    return f"not surely faster: {bounds}; --turns {2 * turns} narrow that"


def _each(
    wanted: dict[Arm, dict[str, Any]],
    worker: Worker,
    what: str,
    other: dict[str, Any] | None = None,
) -> dict[Arm, dict[str, Any]]:
    """One process of each arm."""
    measured: dict[Arm, dict[str, Any]] = {}
    for place, (arm, asked) in enumerate(wanted.items()):
        advanced(what, place, len(wanted), "processes")
        measured[arm] = worker(asked | (other or {}))
    advanced(what, len(wanted), len(wanted), "processes")
    return measured


def _milliseconds(process: dict[str, Any], batch: str, key: str) -> float:
    """What one process took, one number."""
    return float(median(process["batches"][batch][key]))


def _fastest(look: Turn, kind: str, batch: str, key: str) -> tuple[str, float]:
    own = [name for name in look if name.startswith(kind)]
    name = min(own, key=lambda arm: _milliseconds(look[arm], batch, key))
    return name, _milliseconds(look[name], batch, key)


def _kept(look: dict[Arm, dict[str, Any]], batches: Sequence[int]) -> list[Arm]:
    """The arms that are timed in turns; models alternate, as in ``look``."""
    of_model: dict[str, list[Arm]] = {}
    for arm in look:
        of_model.setdefault(arm[0], []).append(arm)
    stays = set()
    for batch in map(str, batches):
        for key in _TIMES.values():
            for who, own in of_model.items():
                took = {arm: _milliseconds(look[arm], batch, key) for arm in own}
                fastest = min(own, key=lambda arm: took[arm])
                near = [a for a in own if who == _DENSE and took[a] <= NEAR * took[fastest]]
                stays |= {fastest, *near}
    kept = [[arm for arm in own if arm in stays] for own in of_model.values()]
    return [arm for arms in zip_longest(*kept) for arm in arms if arm is not None]


def _speeds(look: Turn, turns: list[Turn], batch: str) -> dict[str, Any]:
    """The sparse arm of the first look beside the dense one that was fastest over all turns."""
    speeds = {}
    for name, key in _TIMES.items():
        times = {arm: [_milliseconds(turn[arm], batch, key) for turn in turns] for arm in turns[0]}
        # chosen by another process than those whose times are compared: else luck would choose
        sparse = _fastest(look or turns[0], "sparse", batch, key)[0]
        dense = min(
            (arm for arm in times if arm.startswith("dense")), key=lambda arm: median(times[arm])
        )
        pairs = list(zip(times[dense], times[sparse], strict=True))
        ratios = {"ratios": [before / max(after, 1e-9) for before, after in pairs]}
        record = Speed.of(pairs, REASON).record()
        speeds[name] = {"dense": dense, "sparse": sparse} | record | ratios
    return speeds


def _summary(processes: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """Medians of one arm, as people read them."""
    batches = {}
    for batch in processes[0]["batches"]:
        token, prompt = (
            median(_milliseconds(process, batch, key) for process in processes)
            for key in ("token_ms", "prompt_ms")
        )
        batches[batch] = {
            "tokens_per_second": 1000 * int(batch) / token,
            "prompt_tokens_per_second": 1000 * int(batch) * tokens / prompt,
            "each": [1000 * int(batch) / _milliseconds(p, batch, "token_ms") for p in processes],
        }
    peaks = [process["peak_bytes"] for process in processes]
    return {
        **{key: median(process[key] for process in processes) for key in _MEMORY},
        "peak_bytes": None if None in peaks else median(peaks),
        "matrices_bytes": sum(layer["bytes"] for layer in processes[0]["formats"]),
        "load_seconds": median(process["load_seconds"] for process in processes),
        "threads": processes[0]["threads"],
        "batches": batches,
    }


def _same_text(processes: dict[str, list[dict[str, Any]]], dtype: str) -> bool:
    """Whether both wrote the same in every batch."""
    both = [processes[f"{kind} {dtype}"][-1]["batches"] for kind in ("dense", "sparse")]
    return all(both[0][batch]["text"] == both[1][batch]["text"] for batch in both[0])
