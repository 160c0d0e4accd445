"""What a walk over toy blocks has written, for the tests of its stages."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from steppe.core.mask import unpack


def weights(out: Path) -> dict[str, Tensor]:
    """Weights of all blocks, by file and name."""
    return {
        f"{path.stem}.{name}": tensor
        for path in sorted(out.glob("block-*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def masks(out: Path) -> dict[str, Tensor]:
    """Layer name -> mask."""
    read: dict[str, Tensor] = {}
    for path in sorted(out.glob("masks-*.safetensors")):
        read |= unpack(load_file(path))
    return read
