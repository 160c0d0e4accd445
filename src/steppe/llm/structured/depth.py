"""Whole decoder blocks gone from a model and its config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def drop_blocks(model: Any, names: Sequence[str]) -> None:
    """Take decoder blocks out of a model of transformers, in place; its config says so.

    Lists of the config with an entry for each block, as ``layer_types``, lose theirs.

    Args:
        model: whose blocks lie in one list.
        names: of the blocks that go.
    """
    if not names:
        return
    place = names[0].rpartition(".")[0]
    blocks = model.get_submodule(place)
    gone = {int(name.rpartition(".")[2]) for name in names}
    before = len(blocks)
    above, _, last = place.rpartition(".")
    kept = nn.ModuleList(b for i, b in enumerate(blocks) if i not in gone)
    setattr(model.get_submodule(above), last, kept)
    config = model.config.get_text_config()
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == before:
            setattr(config, key, [v for i, v in enumerate(value) if i not in gone])
    config.num_hidden_layers = before - len(gone)
