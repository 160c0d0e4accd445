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
_REMOVED = "removal.json"  # beside weights of which steppe.removal.plan cut channels


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
    file, stored = _read(path)
    _check(model.state_dict(), stored, file)
    model.load_state_dict(stored, strict=False)
    return model


def start_from(model: nn.Module, path: str | PathLike[str]) -> list[str]:
    """`load_weights`, but a head for another number of classes stays as it is.

    Args:
        model: the model to fill, in place.
        path: a ``.safetensors`` file, or a folder with ``model.safetensors``.

    Returns:
        A sentence that says so, if the head was left.

    Raises:
        SteppeError: as `load_weights`, for everything but the head.

    Example:
        >>> import tempfile, os
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file(nn.Linear(3, 2).state_dict(), os.path.join(folder, "model.safetensors"))
        ...     start_from(nn.Linear(3, 4), folder)[0].rpartition(": ")[2]
        'weight, bias start at random'
    """
    file, stored = _read(path)
    own = model.state_dict()
    other = [name for name in _head(model) if _of_other_classes(own, stored, name)]
    kept = {name: tensor for name, tensor in stored.items() if name not in other}
    _check({name: tensor for name, tensor in own.items() if name not in other}, kept, file)
    model.load_state_dict(kept, strict=False)
    if not other:
        return []
    theirs, ours = (state[other[0]].shape[0] for state in (stored, own))
    return [
        f"{path} is for {theirs} classes and the data have {ours}: {', '.join(other)} start at "
        "random"
    ]


def _head(model: nn.Module) -> list[str]:
    """The names of the last layer's tensors."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    if not layers:
        return []
    name, layer = list(layers.items())[-1]
    return [f"{name}.{tensor}" if name else tensor for tensor, _ in layer.named_parameters()]


def _of_other_classes(own: dict[str, Tensor], stored: dict[str, Tensor], name: str) -> bool:
    here, there = own[name].shape, stored[name].shape if name in stored else None
    return there is not None and here[:1] != there[:1] and here[1:] == there[1:]


def _read(path: str | PathLike[str]) -> tuple[Path, dict[str, Tensor]]:
    file = Path(path).expanduser()
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise SteppeError(
            "weights must be a .safetensors file or a folder with model.safetensors",
            got=path,
            consequence="there is no such file",
            way_out="the folder of a finished run of steppe train, or a .safetensors file",
        )
    try:
        stored: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise SteppeError(
            "weights must be in the safetensors format",
            got=f"{file} ({error})",
            way_out="if the file was cut off, copy it again or repeat the run in another folder; "
            "pickled weights are never read: save them with safetensors.torch.save_model",
        ) from error
    return file, stored


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
            removed = (file.parent / _REMOVED).exists()
            raise SteppeError(
                f"{name} must have shape {list(own[name].shape)}",
                got=f"{list(tensor.shape)} in {file}",
                consequence="channels were removed there" if removed else "",
                way_out="the weights of the run that steppe remove was given (--weights RUN); or "
                "in Python load_removed of steppe.removal.plan, and train on in a loop of your own"
                if removed
                else "give the model the width, in_shape and num_classes it was saved with",
            )


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
