"""What the passes over a model's blocks ask of it: its modules, and their weights in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Weights(Protocol):
    """A model and the way to load its weights, as `steppe.llm.model.StreamedModel`."""

    device: torch.device
    config: Any
    model: Any
    names: list[str]
    blocks: nn.ModuleList

    @property
    def prefix(self) -> str: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def positions(self) -> int | None: ...
    @property
    def predicts(self) -> bool: ...
    def load(self, index: int) -> nn.Module: ...
    def free(self, index: int) -> None: ...
    def read(self, index: int, pruned: Path | None = None) -> None: ...
    def load_rest(self, head: bool) -> None: ...
    def run(self, tokens: Tensor) -> Any: ...
