"""The folder that a whole training leaves: the one that steppe prune writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.mask import pack
from steppe.core.serialization import write_tensors
from steppe.engine.run_folder import LAST, PREVIOUS, RunFolder
from steppe.llm.model import StreamedModel
from steppe.llm.skeleton import forget


class LanguageFolder(RunFolder):
    """Shards, masks and side files as `steppe.llm.prune.prune` writes them; checkpoints on the way.

    Args:
        path: the folder; made when missing.
        recipe: what is run, as plain data.
        today: see `RunFolder`.
        source: the dense model's files, which say names, dtypes and what lies beside.
    """

    def __init__(
        self,
        path: Path | str,
        recipe: dict[str, Any],
        today: Callable[[Any], Any],
        source: StreamedModel,
    ) -> None:
        super().__init__(path, recipe, today)
        self.source = source

    def save_weights(self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        """One shard and one file of masks for each block, one shard for the rest, the index."""
        source = self.source
        source.read(0)  # transformers keeps how it renamed what it read, to write it so
        for index, name in enumerate(source.names):
            inside = f"{name}."
            own = {n.removeprefix(inside): t for n, t in weights.items() if n.startswith(inside)}
            # a type of fewer bits may round more to zero
            kept = {n: m & (weights[n] != 0) for n, m in masks.items() if n.startswith(inside)}
            source.blocks[index].load_state_dict(own, assign=True)
            source.write(index, self.path)
            forget(source.blocks[index])
            file = f"masks-{index + 1:05d}-of-{len(source):05d}.safetensors"
            write_tensors(self.path / file, pack(kept), {"packing": "numpy.packbits"})
        blocks = tuple(f"{name}." for name in source.names)
        source.write_rest(self.path, {n: t for n, t in weights.items() if not n.startswith(blocks)})

    @property
    def written(self) -> int:
        """Bytes of the shards."""
        return sum(path.stat().st_size for path in self.path.glob("model-*.safetensors"))

    def clear_checkpoints(self) -> None:
        """Nothing is left to go on from: the record is whole."""
        for name in (LAST, PREVIOUS):
            for path in (self.path / "checkpoints").glob(name.replace(".", "*.")):
                path.unlink()


def layer_rows(
    source: StreamedModel,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    before: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Block after block, the layers with their sparsity, and how many weights are not zero.

    Args:
        source: names the blocks.
        weights: as they are written.
        masks: name -> booleans, True = kept.
        before: name -> zeros before the training.
    """
    rows = []
    for index, name in enumerate(source.names):
        own = {n: m for n, m in masks.items() if n.startswith(f"{name}.")}
        layers = [
            {
                "name": n,
                "shape": list(m.shape),
                "sparsity_before": before[n] / m.numel(),
                "sparsity_reached": 1 - int(torch.count_nonzero(weights[n])) / m.numel(),
            }
            for n, m in own.items()
        ]
        inside = [t for n, t in weights.items() if n.startswith(f"{name}.")]
        nonzero = sum(int(torch.count_nonzero(t)) for t in inside)
        rows.append({"block": index, "layers": layers, "nonzero": nonzero})
    return rows
