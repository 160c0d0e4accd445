"""A model's safetensors on disk: read tensor by tensor, written shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.hub_names import absent, is_hub_id, silent_retries
from steppe.core.optional_import import require
from steppe.core.serialization import write_tensors, write_text
from steppe.core.unfinished import check_finished
from steppe.llm.side_files import hub_patterns

INDEX = "model.safetensors.index.json"
_PORTION = 8 << 20  # bytes
KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_NARROW = ("F8", "F6", "F4")
"""How the names of floats of 8, 6 and 4 bits begin in a header; no arithmetic is done in them."""
_FROM_HUB = hub_patterns()


def folder_of(name: str) -> Path:
    """The folder of a model: a path as it is, a hub id after its download.

    Raises:
        SteppeError: neither a folder nor something the hub knows (or there is no network), a
            folder of adapters, a run that is not finished, or transformers is not installed.
    """
    # before a download, and before anything else that needs it
    require("transformers", install="'steppe[llm]'", purpose="a language model")
    path = Path(name)
    if path.is_dir():
        check_no_adapter(path)
        check_finished(path)
        return path
    if path.exists() or name.startswith("~") or ("/" in name and not is_hub_id(name)):
        raise absent(
            name,
            "a model is a folder with config.json and safetensors, or a hub id",
            "check the path",
        )
    folder = _download(name)
    check_no_adapter(folder)
    return folder


def _download(name: str) -> Path:
    """The snapshot of a hub id: all but weights, and the weights once."""
    from huggingface_hub import snapshot_download

    try:
        with silent_retries():
            folder = Path(snapshot_download(name, allow_patterns=_FROM_HUB))
            index = folder / INDEX
            named = set(Checkpoint.indexed(index).values()) if index.is_file() else set()
            lacking = sorted(p.relative_to(folder).as_posix() for p in named if not p.is_file())
            if lacking:  # shards may have any name; their index says which
                folder = Path(snapshot_download(name, allow_patterns=lacking))
    except SteppeError:
        raise
    except Exception as error:  # the hub's own exceptions differ by its version
        raise SteppeError(
            "a model is a folder with config.json and safetensors, or a hub id",
            got=f"{name!r} ({type(error).__name__})",
            consequence="it is no folder here and could not be downloaded",
            way_out="check the path, the id and the network",
        ) from error
    return folder


def check_no_adapter(folder: Path) -> None:
    """A folder of adapters is no model: they change another one, which they name.

    Raises:
        SteppeError: it holds adapters.
    """
    described = folder / "adapter_config.json"
    if not described.is_file():
        return
    try:
        base = json.loads(described.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    base = base or "BASE"
    raise SteppeError(
        "a model is a folder with all of its weights",
        got=f"{folder}, which holds adapters (of peft) for {base}",
        consequence="they are no model without it",
        way_out="merge them first: model = peft.PeftModel.from_pretrained("
        f"transformers.AutoModelForCausalLM.from_pretrained({base!r}), {str(folder)!r}); "
        "model.merge_and_unload().save_pretrained('merged'), or steppe.llm.lora.merge_lora(model) "
        "in its place if the base is pruned; then name that folder",
    )


class Checkpoint:
    """The safetensors of one folder, each tensor read when asked for.

    Args:
        folder: holds ``model.safetensors``, or shards and their index.

    Raises:
        SteppeError: there are none, or the index names a file that is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / INDEX
        if index.is_file():
            self.files = self.indexed(index)
        else:
            single = folder / "model.safetensors"
            if not single.is_file():
                check_finished(folder)
                if not folder.exists():
                    raise absent(str(folder), "a model is a folder that exists", "check the path")
                raise SteppeError(
                    "a model's weights are read from safetensors",
                    got=f"{folder} with no model.safetensors and no index",
                    consequence="pickled weights (.bin) can run code when they are read",
                    way_out="convert them: load and save_pretrained with transformers",
                )
            with self._open(single) as file:
                self.files = dict.fromkeys(file.keys(), single)
        for missing in sorted({p for p in self.files.values() if not p.is_file()}):
            raise SteppeError(
                "every shard of the index must be there",
                got=f"no {missing}",
                way_out="download or copy the model again",
            )

    @staticmethod
    def indexed(index: Path) -> dict[str, Path]:
        """Key -> file, as an index of shards says.

        Raises:
            SteppeError: it is none.
        """
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {key: index.parent / name for key, name in weight_map.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SteppeError(
                "the index of a model's shards must be JSON with a weight_map",
                got=f"{index} ({type(error).__name__}: {error})",
                way_out="download or copy the model again",
            ) from error

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise SteppeError(
                "a model's weights must be whole safetensors files",
                got=f"{path}: {error}",
                way_out="download or copy it again",
            ) from error

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors, in their stored dtype; file after file."""
        by_file: dict[Path, list[str]] = {}
        for key in keys:
            by_file.setdefault(self.files[key], []).append(key)
        tensors = {}
        for path, names in by_file.items():
            with self._open(path) as file:
                for name in names:
                    tensors[name] = file.get_tensor(name)
        return tensors

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors are equal; read some rows at a time."""
        with self._open(self.files[one]) as a, self._open(self.files[other]) as b:
            first, second = a.get_slice(one), b.get_slice(other)
            shape = first.get_shape()
            if shape != second.get_shape() or first.get_dtype() != second.get_dtype():
                return False
            if not shape:
                return torch.equal(a.get_tensor(one), b.get_tensor(other))
            step = max(_PORTION // max(torch.Size(shape[1:]).numel(), 1), 1)
            parts = (slice(i, i + step) for i in range(0, shape[0], step))
            return all(torch.equal(first[part], second[part]) for part in parts)

    def headers(self) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """Key -> stored dtype and shape; no weight is read.

        Raises:
            SteppeError: a file is cut off, lacks what the index says it holds, or holds floats of
                8 bits or fewer.
        """
        kinds = {}
        for path in sorted(set(self.files.values())):
            with self._open(path) as file:
                for key in file.keys():  # noqa: SIM118
                    slice_ = file.get_slice(key)
                    stored = slice_.get_dtype()
                    if stored.startswith(_NARROW):
                        raise SteppeError(
                            "weights must be numbers of 16 bits or more",
                            got=f"{stored} in {key} of {path}",
                            way_out="take the model in bfloat16, or convert it to that",
                        )
                    kind = KINDS.get(stored, torch.int64)
                    kinds[key] = kind, torch.Size(slice_.get_shape())
        for key, path in self.files.items():
            if key not in kinds:
                raise SteppeError(
                    "a shard must hold what the index says",
                    got=f"no {key} in {path}",
                    way_out="download or copy the model again",
                )
        return {key: kinds[key] for key in self.files}

    def check_finite(self, digest: Any = None) -> dict[str, int]:
        """No number may be NaN or infinite; reads each tensor once, which takes a disk's time.

        Args:
            digest: of hashlib; takes in all names, dtypes, shapes and bytes, however they lie in
                files.

        Returns:
            Key -> how many of the tensor's numbers are not zero.

        Raises:
            SteppeError: by the tensor's name.
        """
        nonzero = {}
        # pages of an open file that were read count as memory
        for keys in self.portions(sorted(self.files), _PORTION):
            tensors = self.read(keys)
            for key in keys:
                tensor = tensors[key]
                if digest is not None:
                    digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
                    digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
                # the extremes are NaN or infinite if anything is, and found much faster
                ends = torch.aminmax(tensor) if tensor.numel() else ()
                if tensor.is_floating_point() and not all(map(torch.isfinite, ends)):
                    raise SteppeError(
                        "weights must be finite numbers",
                        got=f"NaN or infinity in {key} of {self.files[key]}",
                        consequence="no method can rank or solve it",
                        way_out="download or copy it again",
                    )
                nonzero[key] = int(torch.count_nonzero(tensor))
        return nonzero

    def portions(self, names: Iterable[str], most: int) -> list[list[str]]:
        """Keys, some at a time: together of at most so many bytes, or one by itself."""
        headers, portions = self.headers(), list[list[str]]()
        size_so_far = most + 1
        for key in names:
            dtype, shape = headers[key]
            size = shape.numel() * dtype.itemsize
            if size_so_far + size > most:
                portions.append([])
                size_so_far = 0
            portions[-1].append(key)
            size_so_far += size
        return portions

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum(path.stat().st_size for path in set(self.files.values()))


def shard_name(index: int, of: int, stem: str = "model") -> str:
    """``model-00001-of-00007.safetensors``, counted from 1."""
    return f"{stem}-{index:05d}-of-{of:05d}.safetensors"


def write_shard(folder: Path, index: int, of: int, tensors: dict[str, Tensor]) -> None:
    """One shard of the new model, whole or not at all."""
    own = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
    write_tensors(folder / shard_name(index, of), own, {"format": "pt"})


def write_index(folder: Path, of: int) -> int:
    """The index over all shards of a folder, from their headers; returns the tensors' bytes."""
    where, total = {}, 0
    for i in range(1, of + 1):
        name = shard_name(i, of)
        with safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                where[key] = name
        total += (folder / name).stat().st_size
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
    return total
