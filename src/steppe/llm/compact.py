"""Pruned matrices as one bit per weight and the values that are left; lossless."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.mask import pack, unpack
from steppe.core.optional_import import require
from steppe.core.serialization import damaged, write_tensors
from steppe.llm.architecture import class_of
from steppe.llm.checkpoint import KINDS, Checkpoint, shard_name
from steppe.llm.export import EXPORTS, Exported, OutFolder, side_files
from steppe.llm.skeleton import read_config
from steppe.sparse.checks import check_compact

# the integers that show a dtype's bits
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STEM = "compact"
_PARTS = ("bits", "values", "shape")


def compress(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Bits and values of a matrix; empty when they would not be smaller than the matrix.

    What is kept is what has a bit set, so that -0.0 survives too.

    Args:
        name: what the tensors' names begin with.
        weight: any dtype, at least two dimensions.

    Returns:
        ``name.bits``, ``name.shape`` and ``name.values``, or nothing.

    Example:
        >>> sorted(compress("w", torch.eye(64)))
        ['w.bits', 'w.shape', 'w.values']
        >>> compress("w", torch.ones(64, 64))
        {}
    """
    if weight.ndim < 2 or weight.dtype == torch.bool:
        return {}
    flat = weight.contiguous().view(-1)
    kept = flat.view(BITS[weight.element_size()]) != 0
    packed = pack({name: kept.reshape(weight.shape)})
    packed[f"{name}.values"] = flat[kept]
    smaller = sum(_bytes(t) for t in packed.values()) < _bytes(weight)
    return packed if smaller else {}


def restore(name: str, packed: dict[str, Tensor]) -> Tensor:
    """The inverse of `compress`.

    Raises:
        SteppeError: they are not what it gave.

    Example:
        >>> weight = torch.eye(64)
        >>> torch.equal(restore("w", compress("w", weight)), weight)
        True
    """
    bits, values, shape = (packed[f"{name}.{part}"] for part in _PARTS)
    check_compact(name, bits, values, shape.tolist())
    kept = unpack({f"{name}.bits": bits, f"{name}.shape": shape})[name]
    weight = torch.zeros(kept.shape, dtype=values.dtype)
    kind = BITS[values.element_size()]
    weight.view(kind)[kept] = values.view(kind)  # as numbers, one NaN may become another
    return weight


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def shards(folder: Path) -> list[Path]:
    """The files of a compact folder, all of them.

    Raises:
        SteppeError: there are none, or not as many as their names say.
    """
    shards = sorted(folder.glob(f"{_STEM}-*.safetensors"))
    if not shards or str(len(shards)) != shards[0].stem.rpartition("-")[2].lstrip("0"):
        raise SteppeError(
            "a compact model is read from a folder that steppe export --to compact wrote",
            got=f"{folder} with {len(shards)} of its files",
            way_out="steppe export RUN --to compact --out FOLDER",
        )
    return shards


def read_shard(shard: Path) -> dict[str, Tensor]:
    """The tensors of one file, as they were before.

    Raises:
        SteppeError: it is not as it was written.
    """
    try:
        with safe_open(shard, framework="pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            names = json.loads(file.metadata()["compact"])
        tensors = {}
        for name in names:
            packed = {k: stored.pop(k) for k in (f"{name}.{part}" for part in _PARTS)}
            tensors[name] = restore(name, packed)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise damaged(shard, error) from None
    return tensors | stored


def read_compact(folder: Path | str) -> dict[str, Tensor]:
    """The state dict of a compact folder, each tensor with the bits it had before.

    Raises:
        SteppeError: it is no compact folder.
    """
    state: dict[str, Tensor] = {}
    for shard in shards(Path(folder)):
        state |= read_shard(shard)
    return state


def load_compact(folder: Path | str) -> nn.Module:
    """The language model of a compact folder, of the class that its config names.

    In memory the matrices are dense again: the form saves space on disk and on the way, not
    time.

    Raises:
        SteppeError: it is no compact folder.
    """
    transformers = require("transformers", install="'steppe[llm]'", purpose="a language model")
    folder = Path(folder)
    state = read_compact(folder)
    config = read_config(folder)
    with torch.device("meta"):
        kind = class_of(config, config.architectures or [])
        if hasattr(kind, "from_config"):  # an automatic class: the one that it chooses
            kind = type(kind.from_config(config))
    model: nn.Module = kind.from_pretrained(None, config=config, state_dict=state)
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


class CompactCheckpoint(Checkpoint):
    """The tensors of a compact folder, each read when asked for, dense or as it is stored.

    Args:
        folder: that ``steppe export --to compact`` wrote.

    Raises:
        SteppeError: it is no compact folder, or a file is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self._packed = folder, {}, set[str]()
        for shard in shards(folder):
            try:
                with safe_open(shard, framework="pt") as file:
                    names = json.loads(file.metadata()["compact"])
                    parts = {f"{name}.{part}" for name in names for part in _PARTS}
                    missing = sorted(parts - set(file.keys()))
                    if missing:
                        raise LookupError(f"no {missing[0]}")
                    self.files |= dict.fromkeys({*file.keys(), *names} - parts, shard)
                    self._packed |= set(names)
            except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
                raise damaged(shard, error) from None

    def packed(self, key: str) -> tuple[Tensor, Tensor, torch.Size] | None:
        """Bits, values and shape of a matrix that is stored so, else None.

        Raises:
            SteppeError: they do not belong together.
        """
        if key not in self._packed:
            return None
        try:
            with self._open(self.files[key]) as file:
                bits, values = (file.get_tensor(f"{key}.{part}") for part in ("bits", "values"))
                shape = self._shape(file, key)
        except SafetensorError as error:
            raise damaged(self.files[key], error) from None
        check_compact(f"{key} in {self.files[key]}", bits, values, shape)
        return bits, values, shape

    def _shape(self, file: Any, key: str) -> torch.Size:
        stored: Tensor = file.get_tensor(f"{key}.shape")
        if stored.dtype != torch.int64 or stored.dim() != 1 or bool((stored < 0).any()):
            raise damaged(self.files[key], TypeError(f"{key}.shape is {stored.tolist()}"))
        return torch.Size(stored.tolist())

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors, dense."""
        tensors: dict[str, Tensor] = {}
        for key in keys:
            stored = self.packed(key)
            if stored is None:
                tensors |= super().read([key])
            else:
                bits, values, shape = stored
                parts = {"w.bits": bits, "w.shape": torch.tensor(shape), "w.values": values}
                tensors[key] = restore("w", parts)
        return tensors

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        first, second = (self.read([key])[key] for key in (one, other))
        return first.dtype == second.dtype and torch.equal(first, second)

    def headers(self) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """Key -> stored dtype and shape."""
        kinds = {}
        for shard in sorted(set(self.files.values())):
            with self._open(shard) as file:
                for key in (key for key, path in self.files.items() if path == shard):
                    packed = key in self._packed
                    values = file.get_slice(f"{key}.values" if packed else key)
                    shape = self._shape(file, key) if packed else values.get_shape()
                    kinds[key] = KINDS.get(values.get_dtype(), torch.int64), torch.Size(shape)
        return kinds


@EXPORTS.register("compact")
def compact(run: Path, out: Path, *, verify: str = "logits") -> Exported:
    """Write every pruned matrix as bits and values, shard by shard, and read it back.

    Args:
        run: folder of the pruned model.
        out: folder to write.
        verify: ``logits`` compares every tensor and the logits, ``tensors`` only the tensors, for
            models that do not fit into memory; both in a fresh process.

    Raises:
        SteppeError: what is read back is not what was there.
    """
    if verify not in ("logits", "tensors"):
        raise SteppeError("--verify is logits or tensors", got=repr(verify), way_out="leave it out")
    source, folder = Checkpoint(run), OutFolder(run, out, "compact")
    files = sorted(set(source.files.values()))
    names = [shard_name(i + 1, len(files), _STEM) for i in range(len(files))]
    beside = side_files(run)
    folder.claim([*names, *beside])
    for name in beside:
        folder.copy(name)
    before = after = matrices = 0
    for path, name in zip(files, names, strict=True):
        tensors: dict[str, Tensor] = {}
        packed_names = []
        for key in sorted(k for k, p in source.files.items() if p == path):
            weight = source.read([key])[key]
            packed = compress(key, weight)
            if packed:
                packed_names.append(key)
                before += _bytes(weight)
                after += sum(_bytes(t) for t in packed.values())
            for part, tensor in (packed or {key: weight}).items():
                assert part not in tensors, f"two tensors are called {part}"
                tensors[part] = tensor
        matrices += len(packed_names)
        write_tensors(out / name, tensors, {"format": "pt", "compact": json.dumps(packed_names)})
    checked = _in_a_fresh_process(run, out, verify)
    size = sum((out / name).stat().st_size for name in names)
    record = folder.finish(
        {
            "bytes_before": source.bytes,
            "bytes_after": size,
            "ratio": size / source.bytes,
            "matrices": matrices,
            "matrices_bytes_before": before,
            "matrices_bytes_after": after,
            "verified": checked,
        }
    )
    return Exported(record=record, lines=_lines(record))


def _lines(record: dict[str, Any]) -> list[str]:
    lines = [
        f"{record['bytes_before']} -> {record['bytes_after']} bytes, "
        f"{record['ratio']:.4f} of what it was"
    ]
    if record["matrices"]:
        share = record["matrices_bytes_after"] / record["matrices_bytes_before"]
        lines.append(f"{record['matrices']} matrices as bits and values, {share:.4f} of their size")
    else:
        lines.append("no matrix has zeros enough to be smaller as bits and values: no gain")
    checked = record["verified"]
    also = ", logits bit for bit" if checked["logits"] else "; logits not compared"
    lines.append(f"read back in a fresh process: {checked['tensors']} tensors bit for bit{also}")
    lines.append("steppe.load computes with the matrices packed; load_compact makes them dense")
    return lines


def _in_a_fresh_process(run: Path, out: Path, verify: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "steppe.llm.verify", str(run), str(out), verify]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SteppeError(
            "what is written must read back bit for bit",
            got=said,
            consequence=f"{out} is not finished; do not use it",
            way_out="--verify tensors if memory ran out; otherwise please report this",
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def expected_ratio(sparsity: float, bits: int) -> float:
    """Size of a matrix as bits and values over its dense size: 1 / bits + 1 - sparsity.

    Example:
        >>> expected_ratio(0.5, 16)
        0.5625
        >>> expected_ratio(0.5, 8)
        0.625
    """
    return 1 / bits + 1 - sparsity
