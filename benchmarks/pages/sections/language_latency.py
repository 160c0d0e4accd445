"""docs/benchmarks.md: how long smaller language models take, foretold and measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell
from ..registry import Claim, Rule, claims, table
from ..sources import record

PAGE, SECTION = "docs/benchmarks.md", "Smaller language models: their time (`llm/bench_latency.py`)"


def _rows() -> Iterator[tuple[str, int, str, dict[str, Any]]]:
    """Model, turns, what was cut, and what the record says of it."""
    for name, own in record("latency").items():
        for arm, row in own["arms"].items():
            yield name, own["turns"], arm, row


def _cut(arm: str) -> str:
    """What was cut, in words: 62.5 %, neurons and heads."""
    found = re.fullmatch(r"parameters=([0-9.]+) of (.+)", arm)
    if found is None:
        return arm
    return f"{100 * float(found[1]):g} %, {found[2].replace('+', ' and ')}"


def _ratio(speed: dict[str, Any], turns: int) -> Cell:
    if not speed["low"] > 0:
        return cell(f"{{:.2f}}x (no interval, {turns} turns)", speed["ratio"])
    bounds = speed["ratio"], speed["low"], speed["high"]
    return cell("{:.2f}x ({:.2f} to {:.2f})", *bounds)


@table("llm-latency")
def times() -> Table:
    rows: list[list[str | Cell]] = []
    for name, turns, arm, row in _rows():
        speed = row["token_speed"]
        cut = arm != "dense"
        rows.append(
            [
                name,
                _cut(arm),
                row["shape"],
                cell("{:.1f} M", row["parameters"] / 1e6),
                cell("{:.0f}", row["total_ms_predicted"]),
                cell("{:.0f}", row["total_ms"]),
                cell("{:+.1f} %", 100 * row["total_error"]),
                cell("{:.1f}", 1000 / row["token_ms"]),
                _ratio(speed, turns) if cut else "",
                ("yes" if speed["claimed"] else "no") if cut else "",
            ]
        )
    head = ["model", "left of the parameters", "shape", "parameters", "foretold, ms"]
    head += ["measured, ms", "off (aim: 10 %)", "tokens/s", "as fast as dense", "claimed"]
    return Table(head, rows)


def _worst(what: str) -> float:
    """By how many percent the times of something are off at most."""
    return max(abs(100 * row[f"{what}_error"]) for *_, row in _rows())


@claims(PAGE, SECTION, ["benchmarks/llm/bench_latency.py"])
def said() -> Iterator[Claim]:
    models = record("latency").values()
    texts = {own["text"] for own in models}
    assert len(texts) == 1, "all models read and write as much"
    prompt, tokens = (int(n) for n in re.findall(r"[0-9]+", texts.pop()))
    yield "prompt of {} tokens and {} new ones", prompt, tokens
    (threads,) = {own["conditions"]["threads"] for own in models}
    yield "with {} threads", threads
    yield "time of the whole text is off by {} % at most", _worst("total")
    yield "of the prompt alone by {} %", _worst("prompt")
    yield "of a further token by {} %", _worst("token")
    yield "differed by up to {} % of", 100 * max(own["spread"] for own in models)
    yield "sure to {} %", Rule("src/steppe/core/speed.py", "99.5 % sure")
    yield "bound is above {}", Rule("src/steppe/core/speed.py", "LEAST = 1.05")
    least = Rule("src/steppe/core/speed.py", "with fewer than 8 turns nothing is bounded")
    yield "with fewer than {} turns", least
