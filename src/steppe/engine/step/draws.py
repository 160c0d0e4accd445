"""Random numbers of a pass, drawn again in the next one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

Drawn = dict[torch.device, Tensor]
"""Device -> state of torch's generator there."""


def generators(tensors: Iterable[Tensor]) -> Drawn:
    """The states of torch's generators: the CPU's, and those of the tensors' devices.

    Those of Python's ``random``, of numpy and of generators of one's own are not among them.

    Example:
        >>> before = generators([]); first = torch.rand(1)
        >>> back_to(before); bool(torch.rand(1) == first)
        True
    """
    states = {torch.device("cpu"): torch.get_rng_state()}
    for device in {t.device for t in tensors if t.device.type not in ("cpu", "meta")}:
        states[device] = torch.get_device_module(device).get_rng_state(device)
    return states


def back_to(states: Drawn) -> None:
    """Set the generators to states that `generators` gave."""
    for device, state in states.items():
        if device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)
