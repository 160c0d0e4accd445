"""Images in tar files, as WebDataset writes them, read at their offsets."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.vision.data.base import Source
from steppe.vision.data.blobs import Blobs, Names
from steppe.vision.data.cache import stamp
from steppe.vision.data.encoded import Encoded, source
from steppe.vision.data.imagefolder import suffixes
from steppe.vision.data.levels import Reading
from steppe.vision.data.split_names import TEST_NAMES, is_hidden, split_of
from steppe.vision.data.tar_index import index_of

OPEN = 64
"""Files that a process keeps open."""


def find_shards(folder: Path) -> dict[str, list[Path]]:
    """Split -> its tar files, sorted: those whose name, or else whose folder's, begins with it.

    Those of no split are under "".

    Raises:
        SteppeError: a name says several splits.

    Example:
        >>> find_shards(Path("no/such/folder"))
        {}
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.tar")) if folder.is_dir() else ():
        parts = path.relative_to(folder).parts
        if any(map(is_hidden, parts)):
            continue
        splits = (split_of(part, path) for part in reversed(parts))
        found.setdefault(next(filter(None, splits), ""), []).append(path)
    return found


def tar_shards(
    folder: Path, shards: dict[str, list[Path]], reading: Reading, cache: Path | None = None
) -> Source:
    """A dataset of tar files: ``train-000.tar``, ``test-000.tar`` (or validation, valid, val).

    Files of one name but for its end belong together: an image (``0001.jpg``) and its label
    (``0001.cls`` with a number, or ``0001.json`` with a key ``label``).

    Args:
        folder: that holds them, for messages.
        shards: as `find_shards` gives them.
        reading: how images become pixels.
        cache: folder that keeps what lies where in them; None reads that anew each time.

    Raises:
        SteppeError: a split is missing, a file is no plain tar, an image has no label, two images
            or two different labels have one name.

    Source: the format of https://github.com/webdataset/webdataset.
    """
    test = next((name for name in TEST_NAMES if name in shards), None)
    if "train" not in shards or test is None:
        raise SteppeError(
            "tar shards need train*.tar and test*.tar",
            got=f"{', '.join(filter(None, shards)) or 'no split'} in {folder}",
            way_out="name them train-000.tar, ..., test-000.tar, or put them into such folders",
        )
    notes: list[str] = []
    parts = [
        _encoded(part, shards[split], cache, notes)
        for part, split in (("train", "train"), ("test", test))
    ]
    left = [name for name in TEST_NAMES if name in shards and name != test]
    notes += [f"{test} is what is tested on: {', '.join(left)} left out"] if left else []
    if nameless := [str(path.relative_to(folder)) for path in shards.get("", ())]:
        few = ", ".join(nameless[:8])
        notes.append(f"{len(nameless)} tar files are of no split by their name: left out: {few}")
    return source(parts[0], parts[1], reading, (), notes)


class Shards(Blobs):
    """Images at their offsets in tar files.

    Args:
        files: the tar files.
        entries: file, offset, bytes, name of every image.
    """

    def __init__(self, files: Sequence[Path], entries: Sequence[tuple[int, int, int, str]]) -> None:
        self.files = [str(file) for file in files]
        self.places = np.array([entry[:3] for entry in entries], dtype=np.int64).reshape(-1, 3)
        self.names = Names([entry[3] for entry in entries])
        self._forget()

    def _forget(self) -> None:
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: open files stay here."""
        return {key: value for key, value in vars(self).items() if key != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self.places)

    def blob(self, row: int) -> bytes:
        file, offset, size = map(int, self.places[row])
        stored: Any = self._file(file)
        stored.seek(offset)
        data: bytes = stored.read(size)
        return data

    def describe(self, row: int) -> str:
        return f"{self.names[row]} in {self.files[int(self.places[row][0])]}"

    def key(self) -> str:
        """Of the files, and of where images were found in them: which ones are depends on PIL."""
        places = hashlib.sha256(self.places.tobytes()).hexdigest()
        return f"{stamp(map(Path, self.files))}\n{places}"

    def _file(self, number: int) -> Any:
        if self._process != os.getpid():
            self._forget()  # a forked process shares no place in a file with its parent
        if number not in self._open:
            try:
                self._open[number] = open(self.files[number], "rb")  # noqa: SIM115
            except OSError as error:
                raise SteppeError(
                    "a tar file must stay where it was", got=f"{self.files[number]} ({error})"
                ) from error
        self._open.move_to_end(number)
        while len(self._open) > OPEN:
            self._open.popitem(last=False)[1].close()
        return self._open[number]


def _encoded(name: str, files: Sequence[Path], cache: Path | None, notes: list[str]) -> Encoded:
    entries: list[tuple[int, int, int, str]] = []
    labels: list[object] = []
    lonely = 0
    for number, file in enumerate(files):
        index = index_of(file, cache)
        lonely += index.lonely
        for entry, label in index.images:
            entries.append((number, *entry))
            labels.append(label)
    if lonely:
        notes.append(
            f"{name}: {counted(lonely, 'label')} in tar files without an image that Pillow reads "
            f"here ({', '.join(sorted(suffixes()))}): left out"
        )
    if not entries:
        raise SteppeError(
            "a split of a dataset must have images", got=f"none in {', '.join(map(str, files[:8]))}"
        )
    return Encoded(name=name, labels=labels, blobs=Shards(files, entries))
