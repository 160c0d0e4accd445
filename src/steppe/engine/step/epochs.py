"""When an epoch ends, and how many answers were right in it."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Coupling
from steppe.core.step_context import Epoch
from steppe.engine.ranks import add_up
from steppe.method import Method


class Epochs:
    """Counts for couplings that watch them; for all others it does nothing.

    Args:
        steps: of an epoch; None if the loop does not know.
        total: steps of the run.
        method: its schedule says how long a training is; its coupling watches epochs, accuracy,
            or nothing.

    Raises:
        SteppeError: a coupling watches and steps are not given, or are no number of steps.
    """

    def __init__(self, steps: int | None, total: int, method: Method) -> None:
        assert isinstance(method.coupling, Coupling)
        what, name = method.coupling.watches, method.coupling.name
        length = method.schedule.clock(0, total)[1]  # of its first training
        if what and not steps:
            raise SteppeError(
                f"coupling {name} acts at the end of every epoch",
                got="no steps_per_epoch",
                way_out="sparsify(..., steps_per_epoch=len(loader))",
            )
        if what and (not isinstance(steps, int) or steps < 1):
            raise SteppeError(
                "steps_per_epoch is a whole number of steps",
                got=steps,
                way_out="sparsify(..., steps_per_epoch=len(loader))",
            )
        self.notes: list[str] = []
        if what and steps and steps > length:
            self.notes.append(
                f"coupling {name} acts at the end of every epoch, and a training of {length} steps "
                f"ends none of {steps}: its strength stays as it is at first"
            )
        self._steps, self._what, self._name = steps, what, name
        self.seen = torch.zeros(2)
        """Sum of accuracies, and of how many micro-batches: of all processes, up to the last step,
        as what one of them saves is what all go on with."""
        self._step = torch.zeros(2)

    def see(self, accuracy: Tensor | None) -> None:
        """One micro-batch's accuracy.

        Raises:
            SteppeError: a coupling watches and there is none.
        """
        if self._what != "accuracy":
            return
        if accuracy is None:
            raise SteppeError(
                f"coupling {self._name} needs the training accuracy",
                got="a closure that returns the loss alone",
                way_out="return loss, (logits.argmax(-1) == labels).float().mean()",
            )
        # stays on its device: no step waits for it
        self._step = self._step.to(accuracy.device)
        self._step[0] += accuracy.detach()
        self._step[1] += 1

    def end(self, clock: tuple[int, int]) -> Epoch | None:
        """The epoch that ends when so many steps of so many are done, if one does."""
        if self._what == "accuracy":
            add_up([self._step])
            self.seen = self.seen.to(self._step.device) + self._step
            self._step.zero_()
        done, length = clock
        if not self._what or not self._steps or done % self._steps:
            return None
        number, of = done // self._steps, max(length // self._steps, 1)
        if self._what != "accuracy":
            return Epoch(number, of)
        right, count = self.seen.tolist()
        self.seen.zero_()
        return Epoch(number, of, right / max(count, 1))
