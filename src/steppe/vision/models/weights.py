"""Weights from a safetensors file, every tensor accounted for."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from steppe.core.errors import SteppeError

Model = TypeVar("Model", bound=nn.Module)
_COUNTER = "num_batches_tracked"


def load_weights(model: Model, path: str | PathLike[str]) -> Model:
    """Fill ``model`` from a safetensors file; nothing may be missing, left over or misshapen.

    Two things may be absent: batch norm's step counter (older files have none, and it is not
    used with a momentum) and a name whose storage is tied to one that is present. The model is
    untouched when an error is raised.

    Args:
        model: the model to fill, in place; dtype and device stay the model's.
        path: a ``.safetensors`` file, or a folder with ``model.safetensors``.

    Returns:
        ``model``.

    Raises:
        SteppeError: no such file, not safetensors, or names or shapes that differ.

    Example:
        >>> import tempfile, os, torch
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.ones(1, 2)}, os.path.join(folder, "model.safetensors"))
        ...     load_weights(nn.Linear(2, 1, bias=False), folder).weight.tolist()
        [[1.0, 1.0]]
    """
    file = Path(path).expanduser()
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise SteppeError(
            "weights must be a .safetensors file or a folder with model.safetensors",
            got=path,
            consequence="there is no such file",
        )
    try:
        stored = load_file(file)
    except SafetensorError as error:
        raise SteppeError(
            "weights must be in the safetensors format",
            got=f"{file} ({error})",
            way_out="if the file was cut off, copy it again or repeat the run in another folder; "
            "pickled weights are never read: save them with safetensors.torch.save_model",
        ) from error
    _check(model.state_dict(), stored, file)
    model.load_state_dict(stored, strict=False)
    return model


def _check(own: dict[str, Tensor], stored: dict[str, Tensor], file: Path) -> None:
    filled = {own[name].data_ptr() for name in stored if name in own}
    missing = [
        name
        for name, tensor in own.items()
        if name not in stored
        and not name.endswith(_COUNTER)
        and not (tensor.numel() and tensor.data_ptr() in filled)
    ]
    extra = [name for name in stored if name not in own]
    if missing or extra:
        raise SteppeError(
            "the weights' names must be the model's",
            got=f"{file}: missing {_shortened(missing)}; unexpected {_shortened(extra)}",
            way_out="build the model these weights were saved from",
        )
    for name, tensor in stored.items():
        if tensor.shape != own[name].shape:
            raise SteppeError(
                f"{name} must have shape {list(own[name].shape)}",
                got=f"{list(tensor.shape)} in {file}",
                way_out="give the model the width, in_shape and num_classes it was saved with",
            )


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
