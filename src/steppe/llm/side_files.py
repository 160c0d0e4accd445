"""What lies beside a model's weights: configuration, tokenizer, templates, licence, code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from steppe.core.serialization import atomic

ENDINGS = (
    ".bin",
    ".ckpt",
    ".ggml",
    ".gguf",
    ".h5",
    ".llamafile",
    ".mlmodel",
    ".msgpack",
    ".nemo",
    ".onnx",
    ".onnx.data",
    ".onnx_data",
    ".ot",
    ".pdparams",
    ".pickle",
    ".pkl",
    ".pt",
    ".pth",
    ".pte",
    ".safetensors",
    ".tflite",
)
"""How the names of files of weights end, in any tool's form."""
_OTHER_FORMS = ("original", "onnx", "openvino", "coreml", "gguf", "metal", "mlx")
"""Folders in which a repository of the hub holds the model once more; their weights stay there."""
_OURS = ("checkpoints", "__pycache__")
_RECORDS = {
    "record.json",
    "recipe.yaml",
    "journal.json",
    "evaluations.json",
    "export.json",
    "removal.json",
}
_MASKS = ("masks-", "removal.")  # of an earlier pruning, and what it cut
_NUMBER = 5 * "[0-9]"


def side_files(folder: Path) -> list[str]:
    """Everything in a model's folder but weights, by its path inside, subfolders included.

    A subfolder that holds weights is the model in another form (``original/``, ``onnx/``, a
    trainer's ``checkpoint-500/``) and is left out whole, unless ``modules.json`` names it as a part
    of the model (a dense layer after the pooling): that is copied whole. Hidden files are left out.

    Example:
        >>> side_files(Path("/nowhere"))
        []
    """
    return sorted(name for names in _beside(folder)[0].values() for name in names)


def copy_side_files(folder: Path, out: Path) -> None:
    """Copy them, but for what an earlier run of ours says of itself, each whole or not at all."""
    for name in set(side_files(folder)) - _RECORDS:
        with atomic(out / name) as temporary:
            shutil.copyfile(folder / name, temporary)


def copy_plan(folder: Path, out: Path) -> None:
    """Copy what says what was cut out of a model, where its shapes stay as they are."""
    for path in folder.glob("removal.*"):
        with atomic(out / path.name) as temporary:
            shutil.copyfile(path, temporary)


def left_out(folder: Path, used: Iterable[Path], out: Path) -> list[str]:
    """A sentence on the weights beside a model's own that are not copied; empty if there are none.

    Args:
        folder: the model's.
        used: its files of weights that are read.
        out: where the copy goes, which may lie inside.

    Example:
        >>> left_out(Path("/nowhere"), [], Path("/nowhere/out"))
        []
    """
    own, inside = {path.name for path in used}, out.resolve()
    names = [
        name
        for name in _beside(folder)[1]
        if name not in own
        and not name.endswith(".index.json")
        and not name.startswith(_MASKS)
        and (folder / name).resolve() not in (inside, *inside.parents)
    ]
    if not names:
        return []
    return [f"{', '.join(names)}: weights beside the model's own, left where they are"]


def _beside(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Files to copy by their top folder; and what is not: top folders and files of weights."""
    names: dict[str, list[str]] = {}
    parts, other_forms, copies = _parts(folder), set(_OTHER_FORMS), list[str]()
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _OURS)
        for file in files:
            path = (Path(place) / file).relative_to(folder)
            top = path.parts[0] if len(path.parts) > 1 else ""
            if is_weights(file) and not top:
                copies.append(file)
            elif is_weights(file) and top not in parts:
                other_forms.add(top)
            elif not file.startswith(".") and (folder / path).is_file():
                names.setdefault(top, []).append(path.as_posix())
    other_forms -= parts
    kept = {top: own for top, own in names.items() if top not in other_forms}
    there = {top for top in other_forms if (folder / top).is_dir()}
    return kept, sorted([*there, *copies])


def _parts(folder: Path) -> set[str]:
    """Subfolders that ``modules.json`` (of sentence-transformers) names as parts of the model."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return set()
    try:
        modules = json.loads(listed.read_text(encoding="utf-8"))
        return {Path(module["path"]).parts[0] for module in modules if module["path"]}
    except (ValueError, TypeError, KeyError):  # another tool's file of that name
        return set()


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights, or is the index of such files.

    Example:
        >>> is_weights("model.fp16.safetensors"), is_weights("tokenizer.model")
        (True, False)
    """
    return name.lower().endswith((*ENDINGS, ".index.json"))


def hub_patterns() -> list[str]:
    """Shell patterns of what is fetched from the hub: safetensors once, and all but weights.

    Example:
        >>> from fnmatch import fnmatch
        >>> names = ["model.safetensors", "qwen.tiktoken", "consolidated.safetensors", "a.bin"]
        >>> [n for n in names if any(fnmatch(n, pattern) for pattern in hub_patterns())]
        ['model.safetensors', 'qwen.tiktoken']
    """
    shards = [
        f"model-{_NUMBER}{more}-of-{_NUMBER}{most}.safetensors"
        for more, most in (("", ""), ("", "[0-9]"), ("[0-9]", "[0-9]"))
    ]
    # folders of sentence-transformers: 2_Dense
    parts = [f"[0-9]_*/{name}" for name in ("model.safetensors", "pytorch_model.bin")]
    return ["model.safetensors", *shards, *parts, *_not_ending_in(ENDINGS)]


def _not_ending_in(endings: Iterable[str]) -> list[str]:
    """Shell patterns, of which one matches a name exactly if it ends in none of these.

    The hub's client takes a list of what is wanted, and shell patterns know "not" for single
    letters only: for each tail of an ending, the names in which another letter stands before it.
    """
    endings = set(endings)
    tails = {ending[i:] for ending in endings for i in range(1, len(ending) + 1)}
    patterns = []
    for tail in sorted(tails - endings):
        before = {ending[-len(tail) - 1] for ending in endings if ending.endswith(tail)}
        patterns += [tail, f"*[!{''.join(sorted(before))}]{tail}"]
    last = "".join(sorted({ending[-1] for ending in endings}))
    return [f"*[!{last}]", *patterns]
