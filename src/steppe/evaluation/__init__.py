"""What ``steppe evaluate`` can measure: one file each, found by the registry."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import MISSING, asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry
from steppe.core.seed import checked_seed
from steppe.core.serialization import damaged, write_text
from steppe.engine.run_folder import versions
from steppe.evaluation.base import Evaluation as Evaluation
from steppe.evaluation.base import read_record as read_record
from steppe.evaluation.detection import DETECTION
from steppe.experiment.image_run import of_detection

EVALUATIONS: Registry[type[Evaluation]] = Registry("measurement", "steppe.evaluation")
FILE = "evaluations.json"


def make(name: str, run: str, given: dict[str, Any], others: list[str]) -> Evaluation:
    """The evaluation with the flags that are its own.

    Args:
        name: of the evaluation.
        run: the folder or hub id.
        given: flags that were given, by their field's name.
        others: the other evaluations of the command, which may take the flags that this one
            does not.

    Raises:
        SteppeError: the name is unknown, or a flag is for none of them.
    """
    known = DETECTION if of_detection(Path(run)) else EVALUATIONS
    if known is DETECTION and name in EVALUATIONS and name not in DETECTION:
        raise SteppeError(
            f"--on {name} measures networks of another task",
            got=f"{run}, a detector",
            way_out=f"--on {','.join(DETECTION)}",
        )
    kind = known[name]
    checked_seed(given.get("seed", 0))
    taken = {field.name for field in fields(kind)}
    by_others = {field.name for other in others for field in fields(known[other])}
    for flag in given:
        if flag not in taken | by_others:
            users = [n for n in known if flag in {f.name for f in fields(known[n])}]
            users = users or [
                n for n in EVALUATIONS if flag in {f.name for f in fields(EVALUATIONS[n])}
            ]
            raise SteppeError(
                f"--{flag.replace('_', '-')} is for --on {' or '.join(users)}",
                got=f"--on {','.join([name, *others])}",
                way_out=f"--on {users[0]}, or leave it out" if users else "leave it out",
            )
    return kind(run=run, **{flag: value for flag, value in given.items() if flag in taken})


def meanings(kind: type[Evaluation]) -> dict[str, str]:
    """What each field means, from the docstrings of the class and of its bases.

    Example:
        >>> meanings(Evaluation)["device"]
        'where to measure'
    """
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.getdoc(base) if base.__doc__ and "Args:" in base.__doc__ else None
        listed = (text or "").partition("Args:")[2].split("\n\n")[0]
        for name, meaning in re.findall(r"\n {4}(\w+): ((?:.|\n {6,})+)", listed):
            meanings[name] = " ".join(meaning.split()).rstrip(".")
    return meanings


def command_of(name: str, evaluation: Evaluation) -> str:
    """What to type to measure the same again.

    Example:
        >>> command_of("perplexity", make("perplexity", "out", {"text": "a b.txt"}, []))
        "steppe evaluate out --on perplexity --text 'a b.txt'"
    """
    words = ["steppe", "evaluate", evaluation.run, "--on", name]
    for field in fields(evaluation):
        value = getattr(evaluation, field.name)
        if field.name != "run" and value != field.default:
            words.append(f"--{field.name.replace('_', '-')}")
            words += [] if value is True else [str(value)]
    return shlex.join(words)


def keep(name: str, evaluation: Evaluation, result: dict[str, Any]) -> str | None:
    """Write the result into the folder's evaluations.json, in place of one with the same options.

    Args:
        name: of the evaluation.
        evaluation: with its options.
        result: what it measured.

    Returns:
        Why it could not be kept, in words; None when it was.
    """
    folder = Path(evaluation.run)
    if not folder.is_dir():
        return f"{folder} is no folder here, so the result is not kept"
    own = versions() | {library: version(library) for library in evaluation.libraries}
    entry = {
        "on": name,
        "command": command_of(name, evaluation),
        "options": _options(evaluation),
        "result": result,
        "versions": own,
    }
    path = folder / FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        entries = [e for e in entries if not _same(e, name, evaluation)]
        text = json.dumps([*entries, entry], indent=2, default=str)
        write_text(path, text + "\n")
    except (SteppeError, ValueError, KeyError, TypeError, OSError) as error:
        return f"the result is not kept in {path} ({error})"
    return None


def _options(evaluation: Evaluation) -> dict[str, Any]:
    return {k: v for k, v in asdict(evaluation).items() if k != "run"}


def _same(entry: dict[str, Any], name: str, evaluation: Evaluation) -> bool:
    """Whether a result that was kept is of that measurement with the same options."""
    # through JSON, so that what was read and what is new compare alike
    on, options = json.loads(json.dumps([name, _options(evaluation)], default=str))
    # an option that an earlier version did not know has its default
    usual = json.loads(json.dumps(_defaults(evaluation), default=str))
    return bool((entry["on"], usual | entry["options"]) == (on, options))


def _defaults(evaluation: Evaluation) -> dict[str, Any]:
    return {f.name: f.default for f in fields(evaluation) if f.default is not MISSING}


def earlier(name: str, run: str, given: dict[str, Any]) -> dict[str, Any] | None:
    """What a run's folder holds of that measurement with these flags; None where it holds nothing.

    Nor where what was measured with is another file now, see `Evaluation.holds`.

    Args:
        name: of the evaluation.
        run: the run's folder.
        given: flags, by their field's name.

    Raises:
        SteppeError: the folder's evaluations.json is damaged.
    """
    evaluation = make(name, run, given, [])
    path = Path(run) / FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        for entry in entries:
            if _same(entry, name, evaluation) and evaluation.holds(entry["result"]):
                return dict(entry["result"])
    except SteppeError:
        raise
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise damaged(path, error) from None
    return None


def ensure(name: str, run: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a run's folder holds of that measurement with these flags; measured if it is not there.

    Args:
        name: of the evaluation.
        run: the run's folder.
        given: flags, by their field's name.

    Raises:
        SteppeError: what the measurement refuses; the folder cannot be written.
    """
    if (found := earlier(name, run, given)) is not None:
        return found
    evaluation = make(name, run, given, [])
    result = evaluation.measure()
    lost = keep(name, evaluation, result)
    if lost is not None:
        raise SteppeError("a measurement must be kept", got=lost)
    return result
