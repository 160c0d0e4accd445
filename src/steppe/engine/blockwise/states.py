"""Hidden states of all calibration windows in files that memory maps."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.engine import ranks
from steppe.engine.blockwise.blocks import Blocks
from steppe.engine.blockwise.input_recorder import InputRecorder


class Activations:
    """Float32 tensors of all windows in a file; the system keeps in memory what fits.

    Processes share the file and write disjoint windows.

    Args:
        path: the file; made, or read again when it has the right size.
        shape: windows, and of what there is for each: tokens per window, width.

    Raises:
        SteppeError: there is no space for it.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
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
        ranks.barrier()  # all have it open before the first one may be done with it and delete it
        self.tensor: Tensor = torch.from_numpy(self._map)

    @staticmethod
    def there(path: Path, shape: tuple[int, ...]) -> bool:
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


def _bytes(shape: tuple[int, ...]) -> int:
    return 4 * int(np.prod(shape, dtype=np.int64))


def _reserve(path: Path, size: int) -> None:
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


class HiddenStates:
    """Each block's inputs for all calibration windows, on disk, two blocks at a time.

    Args:
        blocks: the model.
        tokens: calibration windows ``[windows, tokens]``.
        folder: where the files go.
        micro_batch: windows that go through a block together.
        name: of the files.
    """

    def __init__(
        self,
        blocks: Blocks,
        tokens: Tensor,
        folder: Path,
        micro_batch: int,
        name: str = "inputs",
    ) -> None:
        self.blocks, self.tokens, self.folder = blocks, tokens, folder
        self._micro_batch, self._name = micro_batch, name
        self._open: dict[int, Activations] = {}

    def of(self, index: int) -> Activations:
        """A block's inputs."""
        if index % 2 not in self._open:  # mapped once: a new mapping faults page by page again
            self._open[index % 2] = Activations(*self._place(index))
        return self._open[index % 2]

    def _place(self, index: int) -> tuple[Path, tuple[int, ...]]:
        windows, window = self.tokens.shape
        shape = self.blocks.state_shape(window)
        # two files take turns: a block's inputs stay until the journal says that it is done
        path = self.folder / f"{self._name}-{index % 2}.bin"
        return path, (windows, *shape)

    def resume(self, index: int) -> None:
        """The inputs of the first block that is not done must be as they were left.

        Raises:
            SteppeError: they are gone.
        """
        path, shape = self._place(index)
        if not Activations.there(path, shape):
            raise SteppeError(
                "a run goes on from the hidden states of its last finished block",
                got=f"no whole {path}, though {index} blocks are done",
                consequence="what comes after them cannot be computed",
                way_out=f"delete {self.folder.parent} and start again",
            )

    def slices(self, windows: int | None = None) -> list[slice]:
        """This process's windows, a micro-batch at a time.

        Args:
            windows: of the first so many; of all if not given.
        """
        total = len(self.tokens) if windows is None else min(windows, len(self.tokens))
        mine, size = ranks.share(total), self._micro_batch
        return [slice(i, min(i + size, mine.stop)) for i in range(mine.start, mine.stop, size)]

    def embed(self, index: int) -> None:
        """What the model gives a block for the tokens becomes its inputs."""
        states = self.of(index)
        for windows in self.slices():
            given = self.blocks.inputs(index, self.tokens[windows])
            states.tensor[windows] = given.float().cpu()
        states.flush()
        ranks.barrier()

    @torch.no_grad()
    def propagate(self, index: int) -> None:
        """What the model gives the next block becomes its inputs."""
        inputs, outputs = self.of(index), self.of(index + 1)
        for windows in self.slices():
            hidden = inputs.tensor[windows].to(self.blocks.device)
            given = self.blocks.after(index, hidden, self.tokens[windows])
            outputs.tensor[windows] = given.float().cpu()

    @torch.no_grad()
    def replay(self, index: int, recorder: InputRecorder, windows: int | None = None) -> None:
        """A pass through a block of which only its layers' inputs are wanted.

        Args:
            index: which block.
            recorder: sees the inputs.
            windows: only the first so many.
        """
        inputs = self.of(index)
        for some in self.slices(windows):
            hidden = inputs.tensor[some].to(self.blocks.device)
            recorder.through(partial(self.blocks.call, index, hidden))

    def scratch(self, name: str, shape: tuple[int, ...]) -> Activations:
        """Room for a tensor per window, beside the inputs.

        Args:
            name: of the file.
            shape: of a window's tensor.
        """
        return Activations(self.folder / name, (len(self.tokens), *shape))
