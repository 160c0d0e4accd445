"""Masks kept through transformers' Trainer, its checkpoints included."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.core.serialization import write_tensors
from steppe.engine.mask_keeper import MASKS, MaskKeeper, read_masks


class _Keeping:
    """What the callback does; `MaskCallback` is this as transformers' TrainerCallback.

    Args:
        keeper: keeps the masks of the model that is trained. Left out, it is made when training
            begins: from the checkpoint's masks in a resumed run, from the zeros of the weights
            in a new one.
        checkpoint: the folder a resumed run starts from, when it is not
            ``output_dir/checkpoint-STEP``.
    """

    def __init__(
        self, keeper: MaskKeeper | None = None, checkpoint: Path | str | None = None
    ) -> None:
        self.keeper, self.checkpoint = keeper, checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Hook the optimiser; in a resumed run, compare with the checkpoint's masks first."""
        saved = self._saved(args, state)
        if self.keeper is None:
            self.keeper = MaskKeeper(given["model"], saved)
        if saved is not None:
            self._compare(self.keeper, saved)
        self.keeper.check()
        self.keeper.wrap(given["optimizer"])

    def _saved(self, args: Any, state: Any) -> Mapping[str, torch.Tensor] | None:
        folder = Path(self.checkpoint or Path(args.output_dir) / f"checkpoint-{state.global_step}")
        there = (folder / MASKS).is_file()
        if self.checkpoint is not None and not there:
            raise SteppeError(
                "a resumed run reads the masks of its checkpoint",
                got=f"{folder}, which holds no {MASKS}",
                way_out="name a checkpoint that was saved with MaskCallback",
            )
        return read_masks(folder / MASKS) if there and state.global_step else None

    def _compare(self, keeper: MaskKeeper, saved: Mapping[str, torch.Tensor]) -> None:
        for name in {*keeper.masks, *saved}:
            mask = keeper.masks.get(name)
            if name not in saved or mask is None or not torch.equal(mask.cpu(), saved[name]):
                raise SteppeError(
                    "a resumed run keeps the masks of its checkpoint",
                    got=f"other masks for {name}",
                    way_out="resume with the model and masks the run began with, or MaskCallback()"
                    ", which takes the checkpoint's",
                )

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Put the masks beside the checkpoint's weights, once these are known to obey them."""
        assert self.keeper is not None, "training began without on_train_begin"
        self.keeper.check()
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / MASKS
            write_tensors(path, self.keeper.state_dict(), {"packing": "numpy.packbits"})

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **given: Any,
    ) -> None:
        """Add the sparsity to what is logged."""
        if self.keeper is None or logs is None:
            return
        logs["sparsity"] = self.keeper.sparsity()
        if state.log_history:
            # the history took its copy before the callbacks were asked
            state.log_history[-1]["sparsity"] = logs["sparsity"]

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Say so when a zero was lost after all."""
        assert self.keeper is not None, "training began without on_train_begin"
        self.keeper.check()


@functools.cache
def mask_callback() -> type:
    """`MaskCallback`, built on demand: transformers is slow to import, and optional."""
    transformers = require("transformers", install="'steppe[trainer]'", purpose="MaskCallback")
    base = transformers.TrainerCallback
    return type("MaskCallback", (_Keeping, base), {"__doc__": _Keeping.__doc__})
