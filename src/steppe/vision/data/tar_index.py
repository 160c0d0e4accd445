"""What lies where in a tar file, and the labels: read once, and kept where there is a cache."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import __version__ as pil

from steppe.core.errors import SteppeError
from steppe.vision.data.cache import require_writable, stamp, written
from steppe.vision.data.imagefolder import suffixes
from steppe.vision.data.split_names import is_hidden

Entry = tuple[int, int, str]
"""Of an image: offset, bytes, name."""
_FORMAT = 2  # raise it when _read() changes what it returns


@dataclass(frozen=True)
class Index:
    """What a shard holds.

    Args:
        images: with their labels, in the shard's order.
        lonely: how many labels have no image that can be read here beside them.
    """

    images: list[tuple[Entry, Any]]
    lonely: int


def index_of(file: Path, cache: Path | None) -> Index:
    """The images of a shard and their labels.

    To find them every header in the file is read, as a tar has no index of its own. What was found
    is kept in the cache by the path, size and date of the shard, and by what ends the names of
    images here.

    Args:
        file: the shard.
        cache: folder; None keeps nothing. Created if missing.

    Raises:
        SteppeError: the file is no plain tar, an image has no label, two images or two different
            labels have one name; the cache is no folder that can be written to.
    """
    if cache is None or not file.is_file():
        return _read(file)
    key = f"{_FORMAT}\n{pil}\n{sorted(suffixes())}\n{stamp([file])}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    kept = cache / f"shard-{digest[:24]}.json"
    try:
        stored, lonely = json.loads(kept.read_text(encoding="utf-8"))
        images = [((int(at), int(size), str(name)), label) for at, size, name, label in stored]
        return Index(images, int(lonely))
    except (OSError, ValueError, TypeError):
        pass  # absent or damaged: read it anew
    require_writable(cache)
    found = _read(file)
    with written(kept) as aside:
        rows = [[*entry, label] for entry, label in found.images]
        aside.write_text(json.dumps([rows, found.lonely]), encoding="utf-8")
    return found


def _read(file: Path) -> Index:
    images: dict[str, Entry] = {}
    labels: dict[str, Any] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                stem, _, end = path.name.partition(".")
                if not member.isfile() or is_hidden(path.name):
                    continue
                key = str(path.parent / stem)
                if f".{end.lower()}" in suffixes():
                    if key in images:
                        raise _two(images[key][2], member.name, key, file)
                    images[key] = (member.offset_data, member.size, member.name)
                elif end in ("cls", "json"):
                    label = _label(tar, member, file)
                    if label is not None and labels.setdefault(key, label) != label:
                        raise _two(labels[key], label, key, file)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SteppeError(
            "a shard must be a plain tar file",
            got=f"{file} ({error})",
            way_out="uncompressed, so that any image can be read by itself",
        ) from error
    for key, entry in images.items():
        if key not in labels:
            raise SteppeError(
                "an image in a tar file has a label beside it",
                got=f"{entry[2]} in {file}, and no {key}.cls or {key}.json with a label",
                way_out="write KEY.jpg and KEY.cls, one after the other",
            )
    lonely = len(labels.keys() - images.keys())
    return Index([(entry, labels[key]) for key, entry in images.items()], lonely)


def _two(one: object, other: object, key: str, file: Path) -> SteppeError:
    return SteppeError(
        "a name in a shard has one image and one label",
        got=f"{one} and {other} of {key} in {file}",
        consequence="one of them would be lost",
        way_out="names that differ before their first dot",
    )


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> Any:
    """A number, or what a json says; None where it says none."""
    stored = tar.extractfile(member)
    text = stored.read() if stored is not None else b""
    try:
        if member.name.endswith(".json"):
            found = json.loads(text)
            return found.get("label") if isinstance(found, dict) else None
        return int(text)
    except ValueError as error:
        raise SteppeError(
            "the label of an image is a whole number",
            got=f"{text[:40]!r} in {member.name} of {file} ({error})",
        ) from None
