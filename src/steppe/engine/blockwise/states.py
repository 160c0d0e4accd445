"""Hidden states of all calibration windows in a file that memory maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.engine import ranks


class Activations:
    """``[windows, tokens, hidden]`` float32 in a file; the system keeps in memory what fits.

    Processes share the file and write disjoint windows.

    Args:
        path: the file; made, or read again when it has the right size.
        shape: windows, tokens per window, width.

    Raises:
        SteppeError: there is no space for it.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path, self.shape = path, shape
        if ranks.first() and not self.there(path, shape):
            _reserve(path, _bytes(shape))
        ranks.barrier()
        if not ranks.first() and not self.there(path, shape):
            raise SteppeError(
                "all processes must share the folder of the run",
                got=f"no {path} on process {ranks.rank()}",
                way_out="an --out that every machine sees, or processes on one machine",
            )
        self._map = np.memmap(path, dtype=np.float32, mode="r+", shape=shape)
        self.tensor: Tensor = torch.from_numpy(self._map)

    @staticmethod
    def there(path: Path, shape: tuple[int, int, int]) -> bool:
        """Whether a file of this shape's size exists."""
        return path.is_file() and path.stat().st_size == _bytes(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def flush(self) -> None:
        """What was written is on disk."""
        self._map.flush()

    def delete(self) -> None:
        """Remove the file."""
        del self.tensor, self._map
        if ranks.first():
            self.path.unlink(missing_ok=True)


def _bytes(shape: tuple[int, int, int]) -> int:
    return 4 * int(np.prod(shape, dtype=np.int64))


def _reserve(path: Path, size: int) -> None:
    import os

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            # a file with holes would fail with a bus error when the disk is full, not an error
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SteppeError(
            "the hidden states of the calibration windows must fit on the disk",
            got=f"{size / 2**30:.2f} GiB for {path} ({error.strerror})",
            way_out="free some space, choose another --out, or fewer --samples",
        ) from error
