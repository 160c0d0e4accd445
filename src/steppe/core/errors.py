"""Errors that a user can cause, and the one sentence they carry."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SteppeError(ValueError):
    """What the user gave cannot work: rule, value got, consequence, way out, in one line.

    Args:
        rule: what must hold, e.g. ``"sparsity must lie in [0, 1)"``.
        got: the value that breaks the rule, shown with ``repr``-like text.
        consequence: what cannot be done because of it.
        way_out: what to do instead.

    Example:
        >>> str(SteppeError("sparsity must lie in [0, 1)", got=1.5, way_out="use 0.95"))
        'sparsity must lie in [0, 1); got 1.5. Way out: use 0.95'
        >>> str(SteppeError("a config must be valid", got="8 heads do not fit.", way_out="4 heads"))
        'a config must be valid; got 8 heads do not fit. Way out: 4 heads'
    """

    def __init__(
        self, rule: str, *, got: object = None, consequence: str = "", way_out: str = ""
    ) -> None:
        self.rule, self.got, self.consequence, self.way_out = (
            rule,
            got,
            consequence,
            way_out,
        )
        text = rule
        if got is not None:
            text += f"; got {got}"
        if (consequence or way_out) and not text.endswith("..."):
            text = text.removesuffix(".")  # of a sentence that somebody else wrote
        if consequence:
            text += f". {consequence[0].upper()}{consequence[1:]}"
        if way_out:
            text += f". Way out: {way_out}"
        super().__init__(" ".join(text.split()))


class Diverged(SteppeError):
    """A training whose loss became NaN or infinite: its options do not work, its code does.

    Example:
        >>> isinstance(Diverged("the loss must stay finite", got="nan in epoch 3"), SteppeError)
        True
    """


class OtherTask(SteppeError):
    """What the user gave is for another task than the one that is trained.

    Args:
        rule: what must hold.
        got: the value that breaks the rule.
        task: that it is for.

    Example:
        >>> OtherTask("a network classifies", got="a detector", task="detection").way_out
        '--task detection (task: detection in a recipe)'
    """

    def __init__(self, rule: str, *, got: object, task: str) -> None:
        self.task = task
        super().__init__(rule, got=got, way_out=f"--task {task} (task: {task} in a recipe)")


def unknown(kind: str, name: object, known: Iterable[str]) -> SteppeError:
    """The error for a name that is not known, with the nearest names.

    Args:
        kind: what was looked for, e.g. ``"method"``.
        name: the name that was given.
        known: the names there are.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> str(unknown("method", "saef", ["safe"]))
        "unknown method; got 'saef'. Way out: did you mean safe? known: safe"
    """
    known = sorted(known)
    near = get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return SteppeError(
        f"unknown {kind}",
        got=repr(name),
        way_out=f"{hint}known: {', '.join(known)}",
    )
