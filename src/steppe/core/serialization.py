"""Nested state as one safetensors file, written whole or not at all."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from steppe.core.errors import SteppeError

PARTIAL = ".partial"
"""How the names end of files that are being written."""


def _sync_folder(folder: Path) -> None:
    """What was renamed in a folder stays so when the power fails."""
    with contextlib.suppress(OSError):  # not every file system lets a folder be synchronised
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path, but: Callable[[Path], bool] = lambda inner: False) -> None:
    """Remove what a killed process was writing into a folder and those inside it.

    safetensors writes into a file of its own first, whose name is .tmp and six letters.

    Args:
        folder: that nobody else writes into.
        but: whether a folder inside is left as it is, for it is another one's.
    """
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not but(Path(place, name))]
        for pattern in (f".*{PARTIAL}", ".tmp??????"):
            for name in fnmatch.filter(names, pattern):
                Path(place, name).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block ends well, and vanishes if not.

    Raises:
        SteppeError: the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(PARTIAL, f".{path.name}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        # safetensors reports a full disk in its own exception, with the system's text
        raise SteppeError(
            "the run folder must be writable and have space",
            got=f"{path}: {error}",
            consequence="nothing was half-written; what was there before is intact",
            way_out="free some space or choose another --out",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, in UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically."""
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata)


def _flatten(tree: Any, put: Callable[[torch.Tensor], str]) -> Any:
    if isinstance(tree, torch.Tensor):
        parts = parts_inside(tree)
        return _flatten_inside(tree, parts, put) if parts else {"tensor": put(tree)}
    if isinstance(tree, torch.dtype):
        return {"dtype": str(tree).removeprefix("torch.")}
    if isinstance(tree, dict):
        return {"dict": [[_flatten(k, put), _flatten(v, put)] for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_flatten(v, put) for v in tree]}
    assert tree is None or isinstance(tree, bool | int | float | str), f"no plain state: {tree!r}"
    return tree


def parts_inside(tensor: Any) -> dict[str, torch.Tensor]:
    """The tensors that one is a shell around, as quantised ones are (codes and scales), by name."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return {}
    return {name: getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]}


def _flatten_inside(
    tensor: Any, parts: dict[str, torch.Tensor], put: Callable[[torch.Tensor], str]
) -> dict[str, Any]:
    kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
    rest = tensor.__tensor_flatten__()[1]
    return {"made_of": [kind, _flatten(parts, put), _flatten(rest, put)]}


def _unflatten_inside(kind: str, inner: Any, rest: Any) -> Any:
    """A tensor made of others, if its class is one that torch was told is safe to load."""
    for known in torch.serialization.get_safe_globals():
        if isinstance(known, type) and f"{known.__module__}.{known.__qualname__}" == kind:
            made: Any = known
            return made.__tensor_unflatten__(inner, rest, None, None)
    raise LookupError(f"a tensor of kind {kind}, whose library is not in use here")


def _unflatten(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    (kind, value), *_ = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dtype":
        return getattr(torch, value)
    if kind == "made_of":
        return _unflatten_inside(value[0], *(_unflatten(v, tensors) for v in value[1:]))
    if kind == "dict":
        return {_unflatten(k, tensors): _unflatten(v, tensors) for k, v in value}
    items = [_unflatten(v, tensors) for v in value]
    return tuple(items) if kind == "tuple" else items


def save_state(path: Path, tree: Any) -> None:
    """Write dicts, lists and tuples of tensors and plain values; `load_state` reads them back.

    Optimiser states are such trees, with integer keys: neither JSON nor safetensors alone
    holds them, and pickle is not safe to read. Of a tensor that is made of others (a quantised one)
    these are written. Tensors are written from where they lie; only those that share memory with
    another one, or are views of a part, are copied.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> save_state(path, {0: {"step": torch.tensor(3)}, "betas": (0.9, 0.95)})
        >>> load_state(path)
        {0: {'step': tensor(3)}, 'betas': (0.9, 0.95)}
    """
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()

    def put(tensor: torch.Tensor) -> str:
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage()
        # safetensors refuses tensors that share memory
        if memory.data_ptr() in seen or memory.nbytes() != own.nbytes:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        tensors[str(len(tensors))] = own
        return str(len(tensors) - 1)

    plan = json.dumps(_flatten(tree, put))
    write_tensors(path, tensors, {"tree": plan, "crc32": _checksum(plan, tensors)})


def load_state(path: Path) -> Any:
    """What `save_state` wrote, tensors on the CPU.

    Raises:
        SteppeError: the file is not as it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        whole = metadata.get("crc32")
        if whole is not None and whole != _checksum(metadata["tree"], tensors):
            raise ValueError("its checksum differs")
        return _unflatten(json.loads(metadata["tree"]), tensors)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> SteppeError:
    """The error for a file that is not as it was written."""
    return SteppeError(
        "a file of a run must be as it was written",
        got=f"{path} ({type(error).__name__}: {error})",
        way_out="restore it, or make it anew in another folder",
    )


def _checksum(plan: str, tensors: dict[str, torch.Tensor]) -> str:
    """Of the tree and all values: safetensors itself sees only that a file was cut short."""
    crc = zlib.crc32(plan.encode())
    for key in sorted(tensors, key=int):
        crc = zlib.crc32(tensors[key].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        SteppeError: the file is not there, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise TypeError(f"a {type(value).__name__}, not an object")
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from None
    return value


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file that a run wrote, on the CPU.

    Raises:
        SteppeError: the file is not there, or not as it was written.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(path, error) from None
