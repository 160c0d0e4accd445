"""Figures of models that were measured before, kept by the content of all that decides them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.serialization import write_text
from steppe.engine import ranks
from steppe.engine.run_folder import versions
from steppe.llm.calibration_windows import sha256
from steppe.llm.kept import kept


class Memo:
    """One figure, in a file of its own that is named by a hash of what decides it.

    Nothing is looked up by a path or a date: the hash is of contents. A file is written whole or
    not at all, so that several processes may remember at once.

    Args:
        decided_by: plain data.

    Example:
        >>> import os, tempfile
        >>> os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
        >>> Memo({"model": "a"}).put({"perplexity": 7.0})
        >>> Memo({"model": "a"}).get(), Memo({"model": "b"}).get()
        ({'perplexity': 7.0}, None)
    """

    def __init__(self, decided_by: dict[str, Any]) -> None:
        text = json.dumps(decided_by, sort_keys=True)
        self._decided_by = json.loads(text)
        name = hashlib.sha256(text.encode()).hexdigest()
        self.path = kept("perplexity") / f"{name}.json"

    def get(self) -> dict[str, Any] | None:
        """The figure, if all processes know it; a file that is damaged counts as none."""
        figure = None
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["decided_by"] == self._decided_by:
                figure = dict(stored["figure"])
        except (OSError, ValueError, TypeError, KeyError):
            figure = None
        known = torch.tensor([int(figure is not None)])
        ranks.least(known)
        return figure if int(known) else None

    def put(self, figure: dict[str, Any]) -> None:
        """Keep the figure.

        Raises:
            SteppeError: the folder cannot be written.
        """
        if not ranks.first():
            return
        content = {"decided_by": self._decided_by, "figure": figure}
        try:
            write_text(self.path, json.dumps(content, indent=2) + "\n")
        except SteppeError as error:
            raise SteppeError(
                "a figure is remembered in a folder that can be written",
                got=f"{self.path.parent} ({error.got})",
                way_out="set XDG_CACHE_HOME to another folder, or --no-remember",
            ) from error


def perplexity_memo(weights: str, config: Any, tokens: Tensor, **options: Any) -> Memo:
    """Where a model's perplexity on some windows is remembered.

    Args:
        weights: a hash of all of them.
        config: of transformers.
        tokens: the windows ``[windows, window]``.
        options: what else decides the last digits: dtype, batch, the way through the model.
    """
    described = json.loads(config.to_json_string(use_diff=False))
    for name in ("_name_or_path", "transformers_version"):  # where it lay, who wrote it
        described.pop(name, None)
    device = torch.device(options.pop("device"))
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return Memo(
        {
            "weights": weights,
            "config": described,
            "attention": config._attn_implementation,
            "tokens": sha256(tokens),
            "shape": list(tokens.shape),
            "device": [device.type, on, torch.backends.cpu.get_cpu_capability()],
            "processes": ranks.world(),
            "versions": versions() | {"transformers": version("transformers")},
            **options,
        }
    )


def remembered(measure: Callable[[], dict[str, Any]], memo: Memo) -> dict[str, Any]:
    """What was measured before, marked as ``remembered``; or what is measured now, and kept.

    A folder that cannot be written costs nothing but a sentence under ``not_remembered``.
    """
    known = memo.get()
    if known is not None:
        return known | {"remembered": True}
    figure = measure()
    try:
        memo.put(figure)
    except SteppeError as error:
        return figure | {"not_remembered": str(error)}
    return figure
