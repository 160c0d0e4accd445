"""What a checkpoint of another library needs of a sparse run: plain weights, and our own state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steppe.engine.step.sparsifier import Sparsifier

_PARTS = ".parametrizations."


def _parts(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if _PARTS in n}


def plain_state_dict(model: nn.Module, sparsifier: Sparsifier) -> RemovableHandle:
    """Let ``model.state_dict()`` hold the weights under their own names, not the trained parts.

    So a checkpoint in the middle of a run is an ordinary one, whatever the coupling trains.

    Args:
        model: of the run.
        sparsifier: which knows the weights.

    Returns:
        A handle; ``remove()`` it when the run is over.
    """

    def put_weights(module: nn.Module, state: dict[str, Any], prefix: str, local: Any) -> None:
        if module is not model:
            return
        for name, weight in sparsifier.weights.items():
            path, _, tensor = name.rpartition(".")
            start = f"{prefix}{path}{_PARTS}{tensor}."
            parts = [key for key in state if key.startswith(start)]
            if parts:
                state[prefix + name] = weight
            for key in parts:
                del state[key]

    handle: RemovableHandle = model.register_state_dict_post_hook(put_weights)
    return handle


def run_state(model: nn.Module, sparsifier: Sparsifier) -> dict[str, Any]:
    """What resuming needs beside the weights and the optimiser, which the library saves itself."""
    state = sparsifier.state_dict()
    state.pop("optimizer")
    return {"sparsifier": state, "parts": {n: p.clone() for n, p in _parts(model).items()}}


@torch.no_grad()
def load_run_state(model: nn.Module, sparsifier: Sparsifier, state: dict[str, Any]) -> None:
    """The inverse of `run_state`; the library has loaded weights and optimiser already.

    Raises:
        SteppeError: the state is of another method or length.
    """
    own = sparsifier.state_dict()["optimizer"]
    sparsifier.load_state_dict({**state["sparsifier"], "optimizer": own})
    for name, part in _parts(model).items():
        part.copy_(state["parts"][name])
