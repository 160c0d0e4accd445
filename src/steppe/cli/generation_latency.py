"""``steppe latency`` of a language model: how long its blocks take, at every width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steppe.cli.main import emit, say
from steppe.core.device import device_of
from steppe.core.errors import unknown
from steppe.core.text import counted

QUIET = 0.2  # what the passes may differ by, as a share of the median


def is_language_model(model: str) -> bool:
    """Whether a name is that of a language model's folder, and not an image classifier's."""
    config = Path(model) / "config.json"
    if not config.is_file():
        return False
    try:
        kinds = json.loads(config.read_text(encoding="utf-8")).get("architectures") or []
    except (ValueError, AttributeError):
        return True  # whoever reads it as one says what is wrong
    return not any("ForImageClassification" in str(kind) for kind in kinds)


def of_language_model(
    model: str,
    out: Path,
    device: str,
    dtype: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure a language model's blocks over their widths, and say what its texts take.

    Args:
        model: its folder.
        out: the table; goes on with one that is there.
        device: where to measure.
        dtype: float32, bfloat16, float16; as its weights are stored if not given.
        as_json: one JSON object on stdout.
        quiet: nothing on stderr.
        options: see `steppe.llm.structured.block_timing.measure`; None where nothing is said.
    """
    from steppe.llm.load import DTYPES
    from steppe.llm.skeleton import read_config
    from steppe.llm.structured.block_timing import measure

    if dtype is not None and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    table = measure(
        read_config(Path(model)),
        path=out,
        dtype=None if dtype is None else DTYPES[dtype],
        device=str(device_of(device)),
        say=lambda text: say(text, quiet),
        **{name: value for name, value in options.items() if value is not None},
    )
    times = table.times(table.shape)
    points = counted(len(table.points), "point")
    say(f"{table.shape.said()}: {points}, written to {out}", quiet)
    say(
        f"{table.text}: {times.total:.4g} ms, {times.tokens_per_second:.4g} tokens/s after the "
        "first (predicted)",
        quiet,
    )
    if table.spread > QUIET:
        say(
            f"note: the passes differ by {table.spread:.0%} of their median, so other programs "
            "were running; on a quiet machine a table holds better",
            quiet,
        )
    emit(
        {
            "model": model,
            "out": str(out),
            "conditions": table.conditions,
            "points": len(table.points),
            "prompt_ms": times.prompt,
            "token_ms": times.token,
            "total_ms": times.total,
            "spread": table.spread,
        },
        as_json,
    )
