"""One run, one folder, written atomically."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from steppe.core.courtesy import NOT_COMPUTED
from steppe.core.errors import SteppeError
from steppe.core.mask import pack
from steppe.core.serialization import (
    PARTIAL,
    damaged,
    load_state,
    save_state,
    sweep,
    write_tensors,
    write_text,
)
from steppe.core.text import counted, read_yaml

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
"""The two checkpoints that are kept, newest first."""
KEPT = "kept"
"""The folder of what is made before a run begins and kept with it, where the cache cannot be."""


class RunFolder:
    """What a run leaves: weights, masks, recipe, metrics, record, checkpoints.

    Args:
        path: the folder; made when missing.
        recipe: what is run, as plain data; a folder holds one recipe only.
        today: a stored recipe as it would be written now, since an earlier version knew fewer
            options; one that cannot be read so comes back as it is.

    Raises:
        SteppeError: the folder holds another recipe, or something that is no run.
    """

    def __init__(
        self,
        path: Path | str,
        recipe: dict[str, Any],
        today: Callable[[Any], Any] = lambda stored: stored,
    ) -> None:
        self.path = Path(path)
        self.recipe = recipe
        self.stored: Any = None
        """The recipe as the folder has it, in the words of the version that wrote it."""
        self.notes: list[str] = []
        """What was damaged, and what is used instead."""
        recipe_file = self.path / "recipe.yaml"
        if recipe_file.exists():
            self.stored = _read_recipe(recipe_file)
            stored = today(self.stored)
            if stored != recipe:
                self._check_verb(stored)
                keys = differences(stored, recipe)
                own = isinstance(stored, dict) and "train" in stored
                command = shlex.join(["steppe", "train", str(recipe_file), "--out", str(path)])
                done = (self.path / "record.json").exists()
                measures = done and all(key.startswith("evaluate.") for key in keys)
                evaluate = shlex.join(["steppe", "evaluate", str(path), "--on", "perplexity"])
                raise SteppeError(
                    "a run folder holds one recipe",
                    got=f"{self.path}, whose recipe differs in {', '.join(keys)}",
                    way_out=f"{evaluate} --text FILE measures what is there; or " * measures
                    + "choose another --out; or delete that folder, if nothing needs it"
                    + f"; {command} goes on with its own, if its rule is still the same" * own,
                )
        elif self.path.exists() and (not self.path.is_dir() or _holds_something(self.path)):
            raise SteppeError(
                "--out must be a new, empty or earlier run's folder",
                got=str(self.path),
                way_out="choose another --out",
            )

    def _check_verb(self, stored: Any) -> None:
        """Another verb's recipe has other keys, which nobody wants to read.

        Raises:
            SteppeError: it is one.
        """
        other, own = verb_of(stored), verb_of(self.recipe)
        if other != own:
            raise SteppeError(
                "a run folder holds one run",
                got=f"{self.path}, a run of {other}, as --out of {own}",
                way_out="choose another --out",
            )

    def claim(self) -> None:
        """Write the recipe, which makes the folder this run's."""
        if not (self.path / "recipe.yaml").exists():
            write_text(self.path / "recipe.yaml", yaml.safe_dump(self.recipe, sort_keys=False))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else works in this folder meanwhile; what a killed run left half-written goes.

        Raises:
            SteppeError: somebody does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with alone_in(self.path):
            sweep(self.path, but=lambda inner: (inner / "recipe.yaml").exists())  # another run
            yield

    @property
    def record(self) -> dict[str, Any] | None:
        """The finished run's record; None when there is none, or when its end must be done again.

        The end is done again, from the last checkpoint, where something is missing from the
        record (`steppe.core.courtesy`) or the record cannot be read.
        """
        path = self.path / "record.json"
        if not path.exists():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            incomplete = record.get(NOT_COMPUTED)
        except (ValueError, AttributeError) as error:
            if not self.resumable:
                raise damaged(path, error) from None
            self._note(f"{path.name} was damaged; the end of the run is done again")
            return None
        return None if incomplete and self.resumable else record

    @property
    def resumable(self) -> bool:
        """Whether there is something to go on from."""
        folder = self.path / "checkpoints"
        return folder.is_dir() and any(folder.iterdir())

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def metrics(self, rows: list[dict[str, Any]]) -> None:
        """All metrics so far, one JSON object a line."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_text(self.path / "metrics.jsonl", lines)

    @property
    def precision(self) -> dict[str, Any] | None:
        """How the run computes, as it was chosen when it began; None where nothing was."""
        path = self.path / "precision.json"
        if not path.exists():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise damaged(path, error) from None

    def keep_precision(self, choice: dict[str, Any]) -> None:
        """How the run computes, for all later starts."""
        write_text(self.path / "precision.json", json.dumps(choice, indent=2) + "\n")

    def save_checkpoint(self, state: dict[str, Any], of: str = "") -> None:
        """A new last checkpoint, whole or not at all; the one before it is kept too.

        Args:
            state: of the run.
            of: which process's, where each has its own; before the ending of the name.
        """
        folder = self.path / "checkpoints"
        last, previous = (folder / _named(name, of) for name in (LAST, PREVIOUS))
        if last.exists():
            os.replace(last, previous)
        save_state(last, state)

    def load_checkpoint(
        self, of: str = "", choose: Callable[[list[int]], int | None] | None = None
    ) -> dict[str, Any] | None:
        """The last checkpoint that is whole, or None; what was damaged is in `notes`.

        Args:
            of: which process's, where each has its own.
            choose: from the steps after which they were saved, newest first, to the one that is
                taken.
        """
        if choose is not None:
            states = {int(s["sparsifier"]["step"]): s for s in self._whole_checkpoints(of)}
            step = choose(list(states))
            if step is None and states:
                self._note("no checkpoint is there of every process; the run begins anew")
            return states[step] if step is not None else None
        return next(self._whole_checkpoints(of), None)

    def _whole_checkpoints(self, of: str) -> Iterator[dict[str, Any]]:
        """Those that are whole, newest first."""
        wrong: list[str] = []
        found = False
        for name in (_named(LAST, of), _named(PREVIOUS, of)):
            path = self.path / "checkpoints" / name
            if not path.exists():
                continue
            try:
                state: dict[str, Any] = load_state(path)
            except SteppeError:
                wrong.append(name)
                continue
            if wrong:
                self._note(f"checkpoint {wrong[0]} is damaged; the one before it, {name}, is used")
            found = True
            yield state
        if wrong and not found:
            self._note(f"checkpoint {' and '.join(wrong)} is damaged; the run begins anew")

    def save_weights(self, weights: dict[str, Tensor], masks: dict[str, Tensor]) -> None:
        """Weights and masks, before anything is measured of them."""
        own = {name: t.detach().cpu().clone().contiguous() for name, t in weights.items()}
        write_tensors(self.path / "model.safetensors", own, {"format": "pt"})
        write_tensors(self.path / "masks.safetensors", pack(masks), {"packing": "numpy.packbits"})

    def finish_record(self, record: dict[str, Any]) -> None:
        """The record, whose presence says that weights and masks are there."""
        write_text(self.path / "record.json", json.dumps(record, indent=2) + "\n")


def _named(name: str, of: str) -> str:
    stem, dot, ending = name.partition(".")
    return f"{stem}{of}{dot}{ending}"


def _read_recipe(path: Path) -> Any:
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def verb_of(recipe: Any) -> str:
    """The command whose runs have such a recipe; the same word for what is neither.

    Example:
        >>> verb_of({"train": {}, "data": {}}), verb_of({"calibration": None, "fit": {}})
        ('steppe train', 'steppe prune')
    """
    keys = recipe.keys() if isinstance(recipe, dict) else ()
    if "recover" in keys and ("train" in keys or "dense" in keys):
        return "steppe recover"
    return "steppe train" if "train" in keys else "steppe prune"


def differences(stored: Any, wanted: Any, name: str = "") -> list[str]:
    """Dotted names of what two recipes do not share: ``method.budget.sparsity``.

    Example:
        >>> differences({"train": {"lr": 0.1, "epochs": 2}}, {"train": {"lr": 0.2, "epochs": 2}})
        ['train.lr']
    """
    if not (isinstance(stored, dict) and isinstance(wanted, dict)):
        return [] if stored == wanted else [name]
    keys = sorted({*stored, *wanted}, key=str)
    return [
        different
        for key in keys
        for different in differences(
            stored.get(key, ...), wanted.get(key, ...), f"{name}.{key}" if name else str(key)
        )
    ]


def _holds_something(folder: Path) -> bool:
    """Whether there is more than what a run left that was killed at its very start."""
    names = (path.name for path in folder.iterdir())
    return any(name != KEPT and not (name[0] == "." and name.endswith(PARTIAL)) for name in names)


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Nobody else who asks the same works in a folder meanwhile.

    The lock is the system's and ends with the process, however that ends: processes that are forked
    meanwhile, as those that decode images, have no share in it. Inside it may be asked for again.

    Args:
        folder: there already.
        wait: until another one is done.

    Raises:
        SteppeError: somebody does, and one does not wait.
    """
    handle = os.open(folder, os.O_RDONLY)
    there = os.fstat(handle)
    place, held = (there.st_dev, there.st_ino), _held.get()
    if place in held:
        os.close(handle)
        yield
        return
    _handles.add(handle)
    try:
        _lock(handle, folder, wait)
        token = _held.set(held | {place})
        try:
            yield
        finally:
            _held.reset(token)
    finally:
        _handles.discard(handle)
        os.close(handle)


_held: ContextVar[frozenset[tuple[int, int]]] = ContextVar("held", default=frozenset())
"""The folders in which who runs works alone."""
_handles: set[int] = set()
"""What locks of this process are bound to."""


def _let_go() -> None:
    """A forked process would keep its parent's locks after the end of that."""
    while _handles:
        os.close(_handles.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _lock(handle: int, folder: Path, wait: bool) -> None:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise SteppeError(
            "one job at a time works in a folder",
            got=f"{folder}, where another one is at work",
            way_out="wait for it, end it, or choose another --out",
        ) from None
    except (ImportError, OSError):
        pass  # no such locks on this system or file system


def versions() -> dict[str, str]:
    """Versions of what computed a run."""
    return {
        "steppe": version("steppe"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "machine": f"{platform.machine()}, {counted(torch.get_num_threads(), 'thread')}",
    }
