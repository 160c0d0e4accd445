"""What a recovery has brought, in lines for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steppe.cli.main import of_all_parameters, say


def show(record: dict[str, Any], out: Path, quiet: bool) -> None:
    """Say what a recovery has brought.

    Args:
        record: its own.
        out: its folder.
        quiet: say nothing.
    """
    kind = "gone from" if "removed" in record else "zeros in"
    zeros = f"{record['sparsity_reached']:.4%} {kind} the decoder blocks"
    say(f"{record['method_display']}: {zeros}{of_all_parameters(record)}", quiet)
    say(_judged(record), quiet)
    say_perplexities(record, quiet)
    say(
        f"{record['seconds']:.1f} s in all, peak memory "
        f"{record['peak_memory_bytes'] / 2**30:.2f} GiB, in {out}",
        quiet,
    )
    for note in record["fallbacks"]:
        say(f"note: {note}", quiet)


def say_perplexities(record: dict[str, Any], quiet: bool, after: str = "recovered") -> None:
    """Say what the models are worth: dense, what was pruned, and the result.

    Args:
        record: of a recovery or a training; without ``pruned`` the two others are said.
        quiet: say nothing.
        after: what the result of a pruned one is called.
    """
    dense, pruned = (record.get(key, {}).get("texts", {}) for key in ("dense", "pruned"))
    for name, measured in record["sparse"].get("texts", {}).items():
        before, now = dense.get(name, {}).get("perplexity"), measured["perplexity"]
        if name in pruned:
            told = regained(before, pruned[name]["perplexity"], now, after)
        else:
            told = f"{now:.2f}" if before is None else f"{now:.2f}, {before:.2f} dense"
        say(f"perplexity {told} (windows of {measured['window']} of {name})", quiet)
    if not record["sparse"].get("texts"):
        say("no perplexity was measured: give --evaluate FILE", quiet)


def _judged(record: dict[str, Any]) -> str:
    train = record["recipe"]["recover"]["train"]
    early = record.get("early_stopping")
    return kept(train, record["blocks"]) if early is None else best(train, early)


def best(train: str, early: dict[str, Any]) -> str:
    """Which state of a whole training was kept.

    Args:
        train: what was trained.
        early: of the record.

    Example:
        >>> best("weights", {"held_out_loss": [2.0, 1.5, 1.6], "best_part": 1,
        ...                  "stopped_early": False, "patience": 2})
        'trained weights; kept after part 1 of 2, loss on held-out windows 2.0000 -> 1.5000'
    """
    curve, part = early["held_out_loss"], early["best_part"]
    when = f"after part {part} of {len(curve) - 1}" if part else "as it was: nothing was better"
    ended = f"; ended early, no gain in {early['patience']} parts" if early["stopped_early"] else ""
    losses = f"loss on held-out windows {curve[0]:.4f} -> {curve[part]:.4f}"
    return f"trained {train}; kept {when}, {losses}{ended}"


def regained(dense: float | None, pruned: float, now: float, after: str = "recovered") -> str:
    """The three perplexities, and the share of the gap that is closed, if there is one.

    Args:
        dense: of the dense model; None where it was not measured.
        pruned: of what was pruned.
        now: of the result.
        after: what the result is called.

    Example:
        >>> regained(10.0, 30.0, 15.0)
        '10.00 dense, 30.00 pruned, 15.00 recovered: 75 % of the gap'
        >>> regained(None, 30.0, 15.0, after="trained")
        '30.00 pruned, 15.00 trained; dense not measured'
    """
    said = f"{pruned:.2f} pruned, {now:.2f} {after}"
    if dense is None:
        return f"{said}; dense not measured"
    gap = pruned - dense
    share = f": {round(100 * (pruned - now) / gap)} % of the gap" if gap > 0 else ""
    return f"{dense:.2f} dense, {said}{share}"


def kept(train: str, blocks: list[dict[str, Any]]) -> str:
    """In how many parts of blocks the training was kept.

    Args:
        train: what was trained.
        blocks: of the record.

    Example:
        >>> kept("norms", [{"held_out": {"mlp": {"windows": 8, "kept": "trained"}}}])
        'trained norms; kept in 1 of 1 parts of blocks (8 windows held out)'
    """
    judged = [row for block in blocks for row in block.get("held_out", {}).values()]
    if not judged:
        return f"trained {train}; kept in all blocks: no window was held out"
    better = [row["kept"] for row in judged].count("trained")
    windows = judged[0]["windows"]
    held = f"{windows} window{'s' * (windows > 1)} held out"
    return f"trained {train}; kept in {better} of {len(judged)} parts of blocks ({held})"
