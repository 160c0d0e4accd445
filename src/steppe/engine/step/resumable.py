"""Whether a saved state fits a sparsifier, looked at before anything of it is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.engine.step.optimizers import Optimizers
from steppe.method import Method

_WAY_OUT = "make model, optimizer and sparsifier as in the run that was stopped"
LATER = ("finished", "followers", "made_of", "over_calls", "quiet")
"""What states of before did not have."""


def made_of(optimizers: Optimizers, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What must be the same where a state is taken up again.

    Args:
        optimizers: of the run.
        weights: name -> what is pruned, or its parts.
    """
    return {
        "optimizers": [
            {
                "type": type(o).__name__,
                "shapes": [[list(p.shape) for p in g["params"]] for g in o.param_groups],
            }
            for o in optimizers.each()
        ],
        "weights": {name: list(w.shape) for name, w in weights.items()},
    }


def check_resumable(state: Any, mine: Mapping[str, Any], method: Method) -> None:
    """Compare a state with that of the sparsifier which shall go on from it.

    Args:
        state: what is to be loaded.
        mine: of the sparsifier as it is now.
        method: of that sparsifier.

    Raises:
        SteppeError: it is no state, or of another method, length, optimiser or model; or an earlier
            version made it, whose steps were others, and some are left to do.
    """
    given = state if isinstance(state, Mapping) else {}
    absent = [key for key in mine if key not in given and key not in LATER]
    if absent:
        raise SteppeError(
            "a state is what sparsifier.state_dict() gave",
            got=f"a {type(state).__name__} without {', '.join(absent)}",
            way_out="load the file that was saved last, whole",
        )
    for key in ("method", "total_steps"):
        if not _agree(state[key], mine[key]):
            apart = _apart(state[key], mine[key])
            raise SteppeError(
                f"a state can only be resumed by a sparsifier of the same {key}",
                got=", ".join(f"{path or 'it'} {a} in the state, {b} here" for path, a, b in apart),
                way_out=_WAY_OUT + _as_there(apart, state["method"]),
            )
    goes_on = 0 < state["step"] < state["total_steps"] and state.get("finished") is None
    if goes_on and (others := method.changed_since(state["method"])):
        raise SteppeError(
            "a run goes on by the rule that it began with",
            got=f"a state of an earlier version, in which {others}",
            consequence="nothing was loaded",
            way_out="begin anew, or finish it with that version",
        )
    for key in ("scaler", "reference"):
        if (state[key] is None) != (mine[key] is None):
            has, lacks = ("the state", "not here") if state[key] else ("here", "not in the state")
            raise _differs(f"a {key}", f"one {has}, {lacks}")
    if set(state["statistics"]) != set(mine["statistics"]):
        raise _differs("statistics", f"{sorted(state['statistics'])} in the state")
    if "made_of" in state:
        _same_shapes("weights", state["made_of"]["weights"], mine["made_of"]["weights"])
        _same_optimizers(state["made_of"]["optimizers"], mine["made_of"]["optimizers"])
    if mine["reference"] is not None:
        shapes = [{n: list(t.shape) for n, t in s["reference"].items()} for s in (state, mine)]
        _same_shapes("a reference", *shapes)


def _agree(there: Any, here: Any) -> bool:
    """Whether nothing differs but options that a state of before does not name."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return all(k in here and _agree(value, here[k]) for k, value in there.items())
    if isinstance(there, list | tuple) and isinstance(here, list | tuple):
        return len(there) == len(here) and all(map(_agree, there, here))
    return bool(there == here)


def _apart(there: Any, here: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two values differ: the place in what is nested, and both."""
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        return [(path, there, here)]
    keys = [k for k in {**there, **here} if k in there and not _agree(there[k], here.get(k))]
    before = f"{path}." if path else ""
    return [x for k in keys for x in _apart(there.get(k), here.get(k), f"{before}{k}")]


def _as_there(apart: Sequence[tuple[str, Any, Any]], there: Mapping[str, Any]) -> str:
    """What makes the method that of the state, where it is the same one with other parts.

    Whole parts: a field of a part need not be an option of the method, nor be called like it.
    """
    axes = dict.fromkeys(path.partition(".")[0] for path, _, _ in apart)
    if "" in axes or "name" in axes:
        return ""
    return f": method.replace({', '.join(f'{axis}={there[axis]!r}' for axis in axes)})"


def _differs(what: str, got: str) -> SteppeError:
    return SteppeError(
        f"a state can only be resumed by a sparsifier with the same {what.removeprefix('a ')}",
        got=got,
        consequence="nothing was loaded",
        way_out=_WAY_OUT,
    )


def _same_optimizers(state: list[dict[str, Any]], mine: list[dict[str, Any]]) -> None:
    if len(state) != len(mine):
        raise _differs("number of optimizers", f"{len(state)} in the state, {len(mine)} here")
    kinds = [", ".join(str(o["type"]) for o in side) for side in (state, mine)]
    if kinds[0] != kinds[1]:
        raise _differs("optimizer", f"{kinds[0]} in the state, {kinds[1]} here")
    for its, own in zip(state, mine, strict=True):
        counts = [[len(group) for group in o["shapes"]] for o in (its, own)]
        if counts[0] != counts[1]:
            raise _differs(
                "parameter groups", f"{counts[0]} tensors in the state, {counts[1]} here"
            )
        for i, (a, b) in enumerate(zip(_flat(its), _flat(own), strict=True)):
            if a != b:
                got = f"parameter {i} of shape {tuple(a)} in the state, {tuple(b)} here"
                raise _differs("shapes", got)


def _flat(optimizer: dict[str, Any]) -> list[list[int]]:
    return [shape for group in optimizer["shapes"] for shape in group]


def _same_shapes(what: str, state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    wrong = sorted(n for n in {*state, *mine} if state.get(n) != mine.get(n))
    if wrong:
        name = wrong[0]
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        sides = [tuple(side[name]) if name in side else "not there" for side in (state, mine)]
        raise _differs(what, f"{name} {sides[0]} in the state, {sides[1]} here{more}")
