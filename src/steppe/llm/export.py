"""What a pruned model is turned into: one file per target, found by their registry."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError, unknown
from steppe.core.hub_names import nearest
from steppe.core.registry import Registry
from steppe.core.serialization import atomic, read_json, write_text
from steppe.core.unfinished import check_finished
from steppe.llm import side_files as beside
from steppe.llm.checkpoint import check_no_adapter

RECORD = "export.json"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has to say.

    Args:
        record: what export.json holds; plain values.
        lines: the same in sentences.
    """

    record: dict[str, Any]
    lines: list[str]


# (run's folder, folder to write, *, options of its own) -> what was written
EXPORTS: Registry[Callable[..., Exported]] = Registry("export target", "steppe.llm")


def export(run: Path, to: str, out: Path, **options: Any) -> Exported:
    """Write a pruned model in another form.

    Args:
        run: folder of the pruned model: config.json and safetensors.
        to: name of the target.
        out: folder to write; new, empty, or of an earlier export of the same run.
        options: what the target takes; None counts as left out.

    Raises:
        SteppeError: the target or an option is not known, or a folder cannot be used.
    """
    target = EXPORTS[to]
    known = list(inspect.signature(target).parameters)[2:]
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in known:
            raise unknown(f"option of --to {to}", key, known)
    fresh = not out.exists()
    try:
        return target(run, out, **given)
    except SteppeError:
        if fresh:  # half an export is none
            shutil.rmtree(out, ignore_errors=True)
        raise


class OutFolder:
    """A folder that holds one export, or nothing yet.

    Args:
        run: folder of the model; its path is kept as it was given.
        out: the folder to write.
        to: the target's name.

    Raises:
        SteppeError: the run is no model's folder, or ``out`` holds something else.
    """

    def __init__(self, run: Path, out: Path, to: str) -> None:
        self.run, self.path = run, out
        self.identity = {"run": str(run), "to": to}
        check_no_adapter(run)
        check_finished(run)
        if not (run / "config.json").is_file():
            raise SteppeError(
                "what is exported is a language model's folder with config.json",
                got=str(run),
                way_out=nearest(run)
                + "give the --out of steppe prune, or what save_pretrained wrote",
            )
        record = out / RECORD
        if record.is_file():
            written = read_json(record)
            self._files: list[str] = written.get("files", [])
            same = {k: written.get(k) for k in self.identity} == self.identity
        else:
            self._files = []
            same = not out.exists() or (out.is_dir() and not any(out.iterdir()))
        if not same:
            raise SteppeError(
                "--out must be a new, empty or the same export's folder",
                got=str(out),
                consequence="what it holds would be mixed with this export",
                way_out="choose another --out, or delete that folder",
            )

    def claim(self, files: list[str]) -> None:
        """Say whose folder it is, before anything is in it; leftovers of an earlier one go."""
        for name in {*self._files} - {*files}:
            (self.path / name).unlink(missing_ok=True)
        self._files = files
        self._write({"finished": False})

    def copy(self, name: str) -> None:
        """One file of the run, as it is, whole or not at all."""
        with atomic(self.path / name) as temporary:
            shutil.copyfile(self.run / name, temporary)

    def finish(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record, whose ``finished`` says that all is there."""
        return self._write({"finished": True} | record)

    def _write(self, record: dict[str, Any]) -> dict[str, Any]:
        whole = self.identity | record | {"files": self._files}
        write_text(self.path / RECORD, json.dumps(whole, indent=2) + "\n")
        return whole


def side_files(run: Path) -> list[str]:
    """The files beside the weights: configuration, tokenizer, recipe, record.

    Example:
        >>> side_files(Path("/nowhere"))
        []
    """
    return [name for name in beside.side_files(run) if name != RECORD]
