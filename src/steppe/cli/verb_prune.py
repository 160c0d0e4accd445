"""``steppe prune``: a pretrained language model, block by block."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steppe.cli.at_work import at_work
from steppe.cli.blocktable import BlockTable
from steppe.cli.gain import say_gain
from steppe.cli.job import takes_a_job
from steppe.cli.main import emit, of_all_parameters, say
from steppe.cli.progress_line import ProgressLine
from steppe.cli.recovered import show
from steppe.core.courtesy import NOT_COMPUTED, courtesy
from steppe.core.errors import SteppeError
from steppe.engine.blockwise.journal import Journal
from steppe.engine.progress import watched
from steppe.evaluation import read_record
from steppe.methods.registry import METHODS, display_of

_WORTH_SAYING = 1e-4  # zeros that any trained model has by rounding are fewer

if TYPE_CHECKING:
    from steppe.llm.prepare import PreparedPruning


def add(app: typer.Typer) -> None:
    app.command("prune", short_help="Prune a pretrained language model.")(takes_a_job(command))


def command(make: partial[PreparedPruning], json: bool, quiet: bool) -> None:
    """Prune a causal language model; started again, it goes on where it was."""
    from steppe.llm.prune import run
    from steppe.llm.structured.slim import done_before

    _check_used(make.keywords.get("latency_table"), make.keywords.get("target"))
    with ProgressLine(quiet) as line, watched(line):  # the model may have to write its windows
        prepared = make()
    out, blocks = prepared.out, len(prepared.model)
    if make.keywords.get("out") is None:
        say(f"writing to {out}", quiet)
    done = len(Journal(out / "checkpoints" / "journal.json").get("blocks", []))
    earlier = read_record(str(out))
    finished = bool(earlier) and NOT_COMPUTED not in earlier
    said = done_before(prepared) or (f"done before: {done} of {blocks} blocks" if done else "")
    if said and not finished:
        say(f"going on: {said}", quiet)
    if not finished:
        _say_shape(prepared, make.keywords.get("target"), quiet)
    gone = partial(_gone, prepared)
    with BlockTable(blocks, quiet, gone) as table, watched(table.advance):
        record = run(prepared, table.add)
    if finished:
        say("this run was finished before; nothing was done again", quiet)
    with courtesy("the summary"):
        (show if "pruning" in record else _show)(record, out, quiet)
    emit(record | {"out": str(out)}, json)


def _say_shape(prepared: PreparedPruning, target: str | None, quiet: bool) -> None:
    """What will be left, where something is cut out."""
    from steppe.llm.structured.chosen import chosen_shape, family_note

    if said := chosen_shape(prepared):
        say(f"{prepared.method.name}: {said}", quiet)
    if note := family_note(prepared) if target is not None else "":
        say(note, quiet)


def _gone(prepared: PreparedPruning, rows: list[dict[str, Any]]) -> str:
    """What a block lost, in the words of the structure."""
    layers = {layer.name: layer for layer in prepared.model.layers()}
    shares = [(layers[x["name"]], float(x["sparsity_reached"])) for x in rows]
    return prepared.method.structure.gone(shares)


def _check_used(table: Path | None, target: str | None) -> None:
    """Whether a table of times is used.

    Raises:
        SteppeError: it is not.
    """
    from steppe.llm.structured.target import Target

    if table is not None and (target is None or not Target.parse(target).timed):
        raise SteppeError(
            "a table of times is for a target in time",
            got=f"--latency-table {table} with "
            + (f"--target {target}" if target else "no --target"),
            way_out="--target latency=0.7, or no table; steppe plan says what any pruning takes",
        )


def _show(record: dict[str, Any], out: Path, quiet: bool) -> None:
    of_all = of_all_parameters(record)
    kind = "gone from" if "removed" in record else "zeros in"
    zeros = f"{record['sparsity_reached']:.4%} {kind} the decoder blocks"
    say(f"{record['method']}: {zeros}{of_all}", quiet)
    if "weighed" in record:
        weighed = record["weighed"]
        say(f"{weighed['said']} stay, the best of {len(weighed['tried'])} that were tried", quiet)
    if (start := record["recipe"]["method"]["objective"].get("start")) is not None:
        named = start if isinstance(start, str) else start["name"]
        say(started(record["method"], named, record["blocks"]), quiet)
    if "fit" in record["recipe"]:  # blocks were optimised
        shown = record["blocks"][-1].get("coupling", {})
        for line in at_work(record["recipe"]["method"], shown):
            say(line, quiet)
    before = record.get("sparsity_before") or 0.0
    if before >= _WORTH_SAYING:
        what = "could come back" if record["recipe"]["regrow"] else "stayed zero (--regrow)"
        say(
            f"{before:.4%} were zero before and {what}; asked for: {record['sparsity_asked']:.2%}",
            quiet,
        )
    dense, sparse = record["dense"], record["sparse"]
    for name, measured in sparse.get("texts", {}).items():
        before = dense["texts"][name]["perplexity"]
        say(
            f"perplexity {before:.2f} dense, {measured['perplexity']:.2f} sparse "
            f"(windows of {measured['window']} tokens of {name})",
            quiet,
        )
        known = dense["texts"][name]
        if known.get("remembered"):
            say("the dense figure is remembered; --no-remember measures it anew", quiet)
        if "not_remembered" in known:
            say(f"note: {known['not_remembered']}", quiet)
    if not sparse.get("texts"):
        evaluate = shlex.join(["steppe", "evaluate", str(out), "--on", "perplexity", "--text"])
        say(f"no perplexity was measured: {evaluate} FILE", quiet)
    say(
        f"{record['seconds_pruning']:.1f} s pruning, {record['seconds']:.1f} s in all, "
        f"peak memory {record['peak_memory_bytes'] / 2**30:.2f} GiB, in {out}",
        quiet,
    )
    if not record.get("walk", {}).get("streamed", True):  # older records do not say
        say(f"the whole model was in memory: {record['walk']['reason']}", quiet)
    for note in record["fallbacks"]:
        say(f"note: {note}", quiet)
    say_gain(record, out, quiet)


def started(method: str, start: str, blocks: list[dict[str, Any]]) -> str:
    """What a method's steps made of the solution that they started from.

    Args:
        method: its name.
        start: the coupling that solved each layer first.
        blocks: of the record.

    Example:
        >>> judged = {"block": {"windows": 8, "kept": "trained"}}
        >>> started("safe", "layer_admm", [{"held_out": judged}])
        'started from ALPS; the steps of SAFE were kept in 1 of 1 blocks (8 windows held out)'
        >>> started("safe", "obs_update", [{}])
        'started from SparseGPT; the steps of SAFE were kept in all blocks: no window was held out'
        >>> started("safe", "hard_mask", [{}])
        'started from hard_mask; the steps of SAFE were kept in all blocks: no window was held out'
    """
    named = [
        METHODS[name].display
        for name in METHODS
        if (own := METHODS[name].example()).objective.scope == "layer"
        and own.coupling.name == start
        and own.solver is not None
        and own.solver.ranks_by  # else the zeros are those of this method's score
    ]
    said = f"started from {named[0] if len(named) == 1 else start}; the steps of "
    said += f"{display_of(method)} were kept in "
    judged = [row for block in blocks for row in block.get("held_out", {}).values()]
    if not judged:
        return f"{said}all blocks: no window was held out"
    kept, windows = [row["kept"] for row in judged].count("trained"), judged[0]["windows"]
    parts = "blocks" if len(judged) == len(blocks) else "parts of blocks"
    on = f"{windows} window{'s' * (windows > 1)} held out"
    return f"{said}{kept} of {len(judged)} {parts} ({on})"
