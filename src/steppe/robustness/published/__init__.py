"""Published image sets for robustness: one file for each layout of folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.hub_names import absent, is_hub_id, silent_retries
from steppe.core.optional_import import require
from steppe.core.registry import Registry
from steppe.robustness.surface import finite

PUBLISHED: Registry[type[Layout]] = Registry(
    "layout of published images", "steppe.robustness.published"
)
SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".bmp", ".webp"})
IMAGE_FILES = tuple(f"*{end}" for name in sorted(SUFFIXES) for end in (name, name.upper()))

Shape = tuple[int, int, int]
"""Channels, height, width of what a network takes."""


@dataclass(frozen=True)
class LabelledImages:
    """Images with labels, read when they are needed.

    Args:
        labels: ``[n]``.
        read: a slice with a start -> its images ``[k, c, h, w]`` in [0, 1].
    """

    labels: Tensor
    read: Callable[[slice], Tensor]

    @classmethod
    def of(cls, images: Tensor | LabelledImages, labels: Tensor | None) -> LabelledImages:
        """Images in memory with their labels, or those that are read when they are needed.

        Raises:
            SteppeError: none, or not one label each.
        """
        if isinstance(images, LabelledImages):
            given, count = images, len(images.labels)
        else:
            assert labels is not None
            given, count = cls(labels, lambda chosen: images[chosen]), len(images)
        if not count or count != len(given.labels):
            raise SteppeError(
                "accuracy needs images and one label each",
                got=f"{count} images, {len(given.labels)} labels",
            )
        return given


Fit = Callable[[Image.Image], Image.Image]
"""Brings an image of another size to that of the network."""


class Layout:
    """How the files of a published set are arranged in a folder.

    Args:
        folder: with the images.
        name: what messages and results call it.
    """

    on: ClassVar[str]
    """The measurement that reads it."""
    description: ClassVar[str]
    """The names of its folders and files, in words."""
    files: ClassVar[tuple[str, ...]]
    """Patterns of the files that are fetched from the hub."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    @classmethod
    def matches(cls, folder: Path) -> bool:
        """Whether the folder has this layout; `check` says what is missing in it."""
        raise NotImplementedError

    def variants(self) -> list[str]:
        """The names that `images` knows."""
        raise NotImplementedError

    def check(self, classes: int, names: Sequence[str], severities: Sequence[int] = ()) -> None:
        """Check that everything asked for is there; no image is read.

        Args:
            classes: of the network.
            names: to be read.
            severities: to be read, where there are any.

        Raises:
            SteppeError: something is missing, or its classes are not those of the network.
        """
        raise NotImplementedError

    def images(
        self, name: str, shape: Shape, severity: int | None = None, fit: Fit | None = None
    ) -> LabelledImages:
        """The images of one name (and severity), as the network takes them."""
        raise NotImplementedError


def published(where: str | Path, on: str) -> Layout:
    """A published set, whatever its layout.

    Args:
        where: a folder; or, where there is none of that name, a dataset's id on the hub.
        on: the measurement that it is for, e.g. "corruptions".

    Returns:
        Its layout, not yet checked.

    Raises:
        SteppeError: no folder and no id, or nothing in it that the measurement reads.
    """
    layouts = [PUBLISHED[name] for name in PUBLISHED]
    readable = [layout for layout in layouts if layout.on == on]
    folder = _folder(where, sorted({pattern for layout in readable for pattern in layout.files}))
    for layout in readable:
        if layout.matches(folder):
            return layout(folder, Path(where).name)
    others = {layout.on for layout in layouts if layout.matches(folder)}
    content = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise SteppeError(
        f"--on {on} reads {' or '.join(layout.description for layout in readable)}",
        got=f"{where}, which holds {content}",
        way_out=f"--on {' or '.join(sorted(others))}"
        if others
        else "unpack what was downloaded, and give the folder above it",
    )


def _folder(where: str | Path, patterns: list[str]) -> Path:
    path = Path(where).expanduser()
    if path.is_dir():
        return path
    rule = "published images are a folder, or a dataset id owner/name of the hub"
    if path.exists() or not is_hub_id(str(where)):
        raise absent(str(where), rule, "check the path")
    hub = require(
        "huggingface_hub", install="huggingface_hub", purpose="fetching published images by id"
    )
    try:
        with silent_retries():
            found = hub.snapshot_download(str(where), repo_type="dataset", allow_patterns=patterns)
        return Path(found)
    except Exception as error:  # the hub's own exceptions differ by its version
        raise SteppeError(
            rule,
            got=f"{str(where)!r} ({type(error).__name__})",
            consequence="it is no folder here and could not be downloaded",
            way_out="check the path, the id and the network",
        ) from error


@torch.no_grad()
def accuracies_on(
    models: Sequence[nn.Module], images: LabelledImages, batch_size: int
) -> list[float]:
    """The share of images that each of some networks gets right; every image is read once.

    Args:
        models: pixels -> logits ``[n, classes]``, in eval mode.
        images: with their labels.
        batch_size: images in a forward pass; changes nothing.

    Raises:
        SteppeError: a label beyond a network's classes.
    """
    right, count = [0] * len(models), len(images.labels)
    for first in range(0, count, batch_size):
        chosen = slice(first, min(first + batch_size, count))
        batch = images.read(chosen)
        for i, model in enumerate(models):
            device = next((p.device for p in model.parameters()), None)
            out = model(batch.to(device))
            if not first:
                check_labels(images.labels, out.shape[1])
            finite(float(out.abs().max()), "the network's logits", "check the weights")
            right[i] += int((out.argmax(1) == images.labels[chosen].to(out.device)).sum())
    return [own / count for own in right]


def accuracy_on(model: nn.Module, images: LabelledImages, batch_size: int) -> float:
    """The share of images that a network gets right; see `accuracies_on`."""
    return accuracies_on([model], images, batch_size)[0]


def check_labels(labels: Tensor, classes: int) -> None:
    """Check that labels lie in 0 .. classes - 1.

    Raises:
        SteppeError: they are not.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise SteppeError(
            f"labels must be among the network's {classes} classes, 0 to {classes - 1}",
            got=f"{low} to {high}",
            way_out="the published set of the data that the network was trained on",
        )


def folders(folder: Path) -> list[Path]:
    """The visible folders in a folder, by name."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return [folder / name for name in sorted(names)]


def images_of_classes(
    classes: Iterable[tuple[int, Path]], shape: Shape, fit: Fit | None = None
) -> LabelledImages:
    """The images of folders of one class each; files are listed, not read yet.

    Args:
        classes: (label, folder).
        shape: c, h and w; other sizes are scaled to cover it and cropped to the middle.
        fit: what does so, where the network's own images were brought to its size otherwise.

    Raises:
        SteppeError: a folder without images; on reading, an image that cannot be decoded.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in classes:
        names = sorted(n for n in os.listdir(folder) if Path(n).suffix.lower() in SUFFIXES)
        if not names:
            raise SteppeError(
                "each class folder of a published set holds images",
                got=f"none in {folder}",
                way_out="fetch it again",
            )
        paths += [os.path.join(folder, name) for name in names]
        labels += [label] * len(names)

    def read(chosen: slice) -> Tensor:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            images = list(pool.map(lambda path: _decoded(path, shape, fit), paths[chosen]))
        return pixels(images, shape)

    return LabelledImages(torch.tensor(labels), read)


def _decoded(path: str, shape: Shape, fit: Fit | None) -> Image.Image:
    try:
        with Image.open(path) as opened:
            # without it photographs may be turned by 90 degrees
            image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
            image = image.convert("L" if shape[0] == 1 else "RGB")
            # an image of the right size is what was published: ImageNet-C is not scaled again
            fits = fit is None or image.size == (shape[2], shape[1])
            return image if fits or fit is None else fit(image)
    except (SteppeError, MemoryError):
        raise
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error and more
        raise SteppeError(
            "each published image can be decoded",
            got=f"{path} ({type(error).__name__}: {str(error)[:200]})",
            way_out="fetch it again",
        ) from error


def pixels(images: Sequence[Image.Image], shape: Shape) -> Tensor:
    """Images as a network takes them: ``[n, c, h, w]`` in [0, 1].

    Args:
        images: of any size.
        shape: c, h and w; an image of another size is scaled to cover it and cropped to the middle,
            as `steppe train` does with the images of a dataset.

    Example:
        >>> pixels([Image.new("RGB", (6, 4), (255, 0, 0))], (3, 2, 2))[0, :, 0, 0]
        tensor([1., 0., 0.])
    """
    size = (shape[2], shape[1])
    arrays: list[Any] = []
    for image in images:
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
        arrays.append(np.array(image, dtype=np.uint8).reshape(*shape[1:], -1))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float() / 255
