"""Windows that the training of a block does not see, by which it is judged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steppe.engine import ranks
from steppe.engine.blockwise.context import BlockContext
from steppe.engine.blockwise.stages import Stage
from steppe.engine.blockwise.states import Activations


def windows_apart(windows: int, judged_on: int) -> tuple[Tensor, Tensor]:
    """Indices of the windows that are trained on, and of those that are not.

    Args:
        windows: how many there are.
        judged_on: how many are held out, evenly spaced.

    Example:
        >>> windows_apart(8, 2)
        (tensor([0, 1, 3, 4, 5, 7]), tensor([2, 6]))
    """
    if not judged_on:
        return torch.arange(windows), torch.arange(0)
    held_out = (2 * torch.arange(judged_on) + 1) * windows // (2 * judged_on)
    trained = torch.ones(windows, dtype=torch.bool).index_fill(0, held_out, value=False)
    return trained.nonzero().flatten(), held_out


def one_is_held_out(windows: int) -> str:
    """What to say where one of so many windows judges the training."""
    return (
        f"of {windows} calibration windows one is held out: chance has a say in which blocks keep "
        "their training; more windows hold out more"
    )


class HeldOut:
    """What a stage was before its training, and its error on windows that are held out.

    The error is ||B(X) - B0(X)||^2 / ||B0(X)||^2, B0 the dense module.

    Args:
        block: the block at work.
        stage: the module that is trained, as the training starts.
        targets: the dense module's outputs.
        windows: indices of the windows that are held out, one at least.
    """

    def __init__(
        self, block: BlockContext, stage: Stage, targets: Activations, windows: Tensor
    ) -> None:
        self._block, self._stage, self._targets = block, stage, targets
        self._windows = windows
        self._before = {n: t.clone() for n, t in stage.module.state_dict().items()}
        self._start = self._error()

    def better(self) -> bool:
        """Whether the training lowered the error; if not, the stage becomes what it was before."""
        trained = self._error()
        better = trained < self._start  # False where it is no number
        if not better:
            self._stage.module.load_state_dict(self._before)
        row: dict[str, Any] = {
            "windows": len(self._windows),
            "start": self._start,
            "trained": trained,
            "kept": "trained" if better else "start",
        }
        self._block.judged[self._stage.title] = row
        return better

    @torch.no_grad()
    def _error(self) -> float:
        run, stage = self._block.run, self._stage
        device = run.blocks.device
        squares = torch.zeros(2, dtype=torch.float64, device=device)
        mine = self._windows[ranks.rank() :: ranks.world()]
        for part in mine.split(run.config.micro_batch) if len(mine) else ():
            wanted = self._targets.tensor[part].to(device)
            outputs = stage.forward(stage.inputs.tensor[part].to(device), stage.module).float()
            lengths = [x.flatten(1).norm(dim=1) for x in (outputs - wanted, wanted)]
            squares += torch.stack([x.double().square().sum() for x in lengths])
        ranks.add_up([squares])
        return float(squares[0] / squares[1])
