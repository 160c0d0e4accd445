"""A language model as one dense GGUF file, which llama.cpp and what is built on it run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError, unknown
from steppe.core.optional_import import require
from steppe.core.serialization import atomic
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.compact import BITS, CompactCheckpoint
from steppe.llm.export import EXPORTS, Exported, OutFolder
from steppe.llm.gguf_model import Entry, describe, entries_of, family_of, rope_factors
from steppe.llm.gguf_tokenizer import Vocabulary, read_vocabulary
from steppe.llm.skeleton import read_config

FILE = "model.gguf"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a file holds.

    Args:
        architecture: as llama.cpp calls it.
        dtype: of the matrices.
        tensors: how many.
        weights: numbers in the decoder blocks' matrices.
        zeros: how many of these are zero.
        notes: sentences on what the file says otherwise than the model.
    """

    architecture: str
    dtype: str
    tensors: int
    weights: int
    zeros: int
    notes: tuple[str, ...]


@EXPORTS.register("gguf")
def to_gguf(run: Path, out: Path, *, dtype: str = "stored", tokenizer: str = "carried") -> Exported:
    """Write a dense GGUF file and read it back.

    Args:
        run: folder of the pruned model, or of its compact export.
        out: folder to write.
        dtype: of matrices: ``stored``, or ``f32``, ``f16``, ``bf16``, to which they are rounded.
        tokenizer: ``carried``, or ``none`` for programs that give token ids.

    Raises:
        SteppeError: llama.cpp has no place for the model or its tokenizer.
    """
    if dtype not in ("stored", *DTYPES):
        raise unknown("dtype of a GGUF file", dtype, ["stored", *DTYPES])
    if tokenizer not in ("carried", "none"):
        raise SteppeError("--tokenizer is carried or none", got=repr(tokenizer), way_out="carried")
    gguf = package()
    folder = OutFolder(run, out, "gguf")
    source, config = checkpoint(run), read_config(run)
    vocabulary = Vocabulary()
    family_of(config, {key: kind[1] for key, kind in source.headers().items()})  # the first reason
    if tokenizer == "carried":
        vocabulary = read_vocabulary(gguf, run, config.vocab_size)
    folder.claim([FILE])
    done = write(out / FILE, source, config, vocabulary, DTYPES.get(dtype))
    compared = read_back(out / FILE, source, config, DTYPES.get(dtype))
    record = folder.finish(
        {
            "bytes": (out / FILE).stat().st_size,
            "architecture": done.architecture,
            "dtype": done.dtype,
            "tensors": done.tensors,
            "tensors_compared": compared,
            "zeros": done.zeros / max(done.weights, 1),
            "tokenizer": vocabulary.model,
            "pre_tokenizer": vocabulary.pre,
            "gguf": version(),
            "notes": [*done.notes, *vocabulary.notes],
        }
    )
    return Exported(record=record, lines=_lines(record))


def _lines(record: dict[str, Any]) -> list[str]:
    text = "no tokenizer" if record["tokenizer"] == "none" else "the tokenizer"
    return [
        f"{FILE}: {record['bytes']} bytes, {record['architecture']}, {record['tensors']} tensors, "
        f"matrices in {record['dtype']}, {text}",
        f"read back: {record['tensors_compared']} tensors are the model's, bit for bit in that "
        "dtype",
        *record["notes"],
        f"{record['zeros']:.1%} of the blocks' weights are zero; GGUF has no sparse type, so they "
        "are stored and multiplied like all others: nothing is smaller or faster by them",
    ]


def package() -> Any:
    """The gguf package.

    Raises:
        SteppeError: it is not installed.
    """
    require("transformers", install="'steppe[llm]'", purpose="a language model")
    return require("gguf", install="'steppe[gguf]'", purpose="writing GGUF")


def version() -> str:
    """Of the gguf package."""
    from importlib.metadata import version as of

    return of("gguf")


def checkpoint(run: Path) -> Checkpoint:
    """The tensors of a folder, compact or not."""
    compact = any(run.glob("compact-*.safetensors"))
    return CompactCheckpoint(run) if compact else Checkpoint(run)


def write(
    path: Path,
    source: Checkpoint,
    config: Any,
    vocabulary: Vocabulary | None = None,
    dtype: torch.dtype | None = None,
) -> Written:
    """Write one file, tensor by tensor.

    Args:
        path: the file.
        source: the weights.
        config: of transformers.
        vocabulary: of the tokenizer; None writes none.
        dtype: of matrices; None, as they are stored.

    Raises:
        SteppeError: llama.cpp has no place for the model.
    """
    gguf = package()
    kinds = source.headers()
    _, architecture, blocks = family_of(config, {key: kind[1] for key, kind in kinds.items()})
    entries = entries_of(gguf, config, kinds, dtype)
    factors = rope_factors(config, blocks.head_size)
    matrices = {entry.dtype for entry in entries if len(entry.shape) > 1}
    widest = max(matrices, key=lambda kind: kind.itemsize)
    with atomic(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        try:
            notes = describe(gguf, writer, config, blocks)
            writer.add_name(source.folder.name)
            writer.add_file_type(_file_type(gguf, widest))
            (vocabulary or Vocabulary()).write(writer)
            for entry in entries:
                _announce(gguf, writer, entry.name, entry.shape, entry.dtype)
            if factors is not None:
                _announce(gguf, writer, _FREQUENCIES, factors.shape, factors.dtype)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            weights = zeros = 0
            for entry in entries:
                tensor = entry.written(source.read([entry.key])[entry.key])
                writer.write_tensor_data(_bytes(tensor))
                if entry.name.startswith("blk.") and tensor.ndim > 1:
                    weights += tensor.numel()
                    zeros += tensor.numel() - int(torch.count_nonzero(tensor))
            if factors is not None:
                writer.write_tensor_data(_bytes(factors))
        finally:
            writer.close()
    return Written(
        architecture=architecture,
        dtype=", ".join(sorted(_NAMES[kind] for kind in matrices)),
        tensors=len(entries) + (factors is not None),
        weights=weights,
        zeros=zeros,
        notes=(*notes, *_rounded(entries, kinds)),
    )


def _file_type(gguf: Any, dtype: torch.dtype) -> int:
    types = gguf.LlamaFileType
    of = {torch.float32: types.ALL_F32, torch.float16: types.MOSTLY_F16}
    return int(of.get(dtype, types.MOSTLY_BF16))


def _announce(gguf: Any, writer: Any, name: str, shape: torch.Size, dtype: torch.dtype) -> None:
    import numpy as np

    kind = gguf.GGMLQuantizationType[_NAMES[dtype].upper()]
    size = shape.numel() * dtype.itemsize
    # numpy has no bfloat16; any dtype but bytes leaves the shape as it is
    writer.add_tensor_info(name, tuple(shape), np.dtype("float32"), size, raw_dtype=kind)


def _bytes(tensor: Tensor) -> Any:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy()


def _rounded(entries: list[Entry], kinds: dict[str, tuple[torch.dtype, torch.Size]]) -> list[str]:
    """A sentence where the file's dtype holds less than the model's."""
    pairs = {(kinds[entry.key][0], entry.dtype) for entry in entries}
    return [
        f"{str(old).removeprefix('torch.')} weights were rounded to {_NAMES[new]}"
        for old, new in sorted(pairs, key=str)
        if torch.promote_types(old, new) != new
    ]


def read_back(path: Path, source: Checkpoint, config: Any, dtype: torch.dtype | None = None) -> int:
    """Compare a file with the model, tensor by tensor, rows back in their places.

    Returns:
        How many tensors were compared.

    Raises:
        SteppeError: one is missing, or differs in a bit.
    """
    gguf = package()
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    entries = entries_of(gguf, config, source.headers(), dtype)
    for entry in entries:
        expected = source.read([entry.key])[entry.key].to(entry.dtype)
        if entry.name not in stored or not _same(entry, stored[entry.name], expected):
            raise SteppeError(
                "what is written must read back bit for bit",
                got=f"{entry.name} ({entry.key}) in {path}",
                consequence="the export is not finished; do not use it",
                way_out="please report this",
            )
    return len(entries)


def _same(entry: Entry, tensor: Any, expected: Tensor) -> bool:
    import numpy as np

    if tensor.tensor_type.name != _NAMES[entry.dtype].upper():
        return False
    raw = torch.from_numpy(np.array(tensor.data).reshape(-1).view(np.uint8)).view(entry.dtype)
    shape = torch.Size(int(n) for n in reversed(tensor.shape))  # the fastest dimension is its first
    if shape != entry.shape:
        return False
    kind = BITS[entry.dtype.itemsize]  # as numbers, NaN would differ from itself
    return torch.equal(entry.stored(raw.view(shape)).view(kind), expected.view(kind))
