"""One run, one folder, written atomically."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.mask import pack
from steppe.core.serialization import (
    PARTIAL,
    load_state,
    save_state,
    sweep,
    write_tensors,
    write_text,
)
from steppe.core.text import read_yaml


class RunFolder:
    """What a run leaves: weights, masks, recipe, metrics, record, checkpoints.

    Args:
        path: the folder; made when missing.
        recipe: what is run, as plain data; a folder holds one recipe only.

    Raises:
        SteppeError: the folder holds another recipe, or something that is no run.
    """

    def __init__(self, path: Path | str, recipe: dict[str, Any]) -> None:
        self.path = Path(path)
        self.recipe = recipe
        recipe_file = self.path / "recipe.yaml"
        if recipe_file.exists():
            stored = read_yaml(recipe_file.read_text(encoding="utf-8"))
            if stored != recipe:
                keys = _differences(stored, recipe)
                raise SteppeError(
                    "a run folder holds one recipe",
                    got=f"{self.path}, whose recipe differs in {', '.join(keys)}",
                    way_out="choose another --out, or delete that folder",
                )
        elif self.path.exists() and (not self.path.is_dir() or _holds_something(self.path)):
            raise SteppeError(
                "--out must be a new, empty or earlier run's folder",
                got=str(self.path),
                way_out="choose another --out",
            )

    def claim(self) -> None:
        """Write the recipe, which makes the folder this run's."""
        if not (self.path / "recipe.yaml").exists():
            write_text(self.path / "recipe.yaml", yaml.safe_dump(self.recipe, sort_keys=False))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else works in this claimed folder meanwhile; what a killed run left goes.

        The lock is the system's and ends with the process, however that ends.

        Raises:
            SteppeError: somebody does.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            _lock(handle, self.path)
            sweep(self.path)
            yield
        finally:
            os.close(handle)

    @property
    def record(self) -> dict[str, Any] | None:
        """The finished run's record, or None."""
        path = self.path / "record.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def metrics(self, rows: list[dict[str, Any]]) -> None:
        """All metrics so far, one JSON object a line."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_text(self.path / "metrics.jsonl", lines)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the last checkpoint, whole or not at all."""
        save_state(self.path / "checkpoints" / "last.safetensors", state)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None."""
        path = self.path / "checkpoints" / "last.safetensors"
        return load_state(path) if path.exists() else None

    def finish(
        self, weights: dict[str, Tensor], masks: dict[str, Tensor], record: dict[str, Any]
    ) -> None:
        """Weights, masks, and last the record, whose presence says that all is there."""
        own = {name: t.detach().cpu().clone().contiguous() for name, t in weights.items()}
        write_tensors(self.path / "model.safetensors", own, {"format": "pt"})
        write_tensors(self.path / "masks.safetensors", pack(masks), {"packing": "numpy.packbits"})
        self.finish_record(record)

    def finish_record(self, record: dict[str, Any]) -> None:
        """The record alone, when the weights are there already."""
        write_text(self.path / "record.json", json.dumps(record, indent=2) + "\n")


def _differences(stored: Any, wanted: Any, name: str = "") -> list[str]:
    """Dotted names of what two recipes do not share: ``method.budget.sparsity``."""
    if not (isinstance(stored, dict) and isinstance(wanted, dict)):
        return [] if stored == wanted else [name]
    keys = sorted({*stored, *wanted}, key=str)
    return [
        different
        for key in keys
        for different in _differences(
            stored.get(key, ...), wanted.get(key, ...), f"{name}.{key}" if name else str(key)
        )
    ]


def _holds_something(folder: Path) -> bool:
    """Whether there is more than what a run left that was killed at its very start."""
    return any(not (p.name[0] == "." and p.name.endswith(PARTIAL)) for p in folder.iterdir())


def _lock(handle: int, folder: Path) -> None:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
