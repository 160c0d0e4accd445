"""A finished run of ``steppe train``, ready to be measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.device import device_of
from steppe.core.errors import SteppeError
from steppe.core.mask import unpack
from steppe.core.serialization import damaged, load_tensors
from steppe.experiment.detection.recipe import TASK as DETECTION
from steppe.experiment.experiment import read_run
from steppe.experiment.recipe import Recipe
from steppe.experiment.tasks import TASKS
from steppe.removal.plan import TEXT, load_removed
from steppe.robustness.attacks import Normalised
from steppe.robustness.published import Fit, LabelledImages
from steppe.vision.augment import Pipeline
from steppe.vision.data import ImageData
from steppe.vision.framing import ResizeCenterCrop
from steppe.vision.loader import Loader
from steppe.vision.models import load_weights, logits

READ = 64
"""Images that a worker decodes at a time."""
LOOKED_AT = 16
"""Images, about, that are compared to tell two datasets apart."""
_FRAMED = ("size", "resize", "interpolation", "channels", "background", "value_range", "stream")
MOST_BYTES = 16 * 2**30
"""Of images that are kept in memory as float32."""


class _Logits(nn.Module):
    """A model that answers with logits, whatever object its own forward returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return logits(self.model, x)


def was_trained(recipe: Path) -> bool:
    """Whether there is a recipe of images: no calibration (of steppe prune), no task of texts."""
    begun = _beginnings(recipe)
    return (
        recipe.exists() and "calibration:" not in begun and begun.get("task:") in (None, DETECTION)
    )


def of_detection(run: Path) -> bool:
    """Whether a folder is a run of a detector."""
    return _beginnings(run / "recipe.yaml").get("task:") == DETECTION


def _beginnings(recipe: Path) -> dict[str, str]:
    """The first word of each line of a recipe, and the rest of it; of a broken one too."""
    if not recipe.is_file():
        return {}
    lines = recipe.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition(" ") for line in lines)
    return {first: rest.strip() for first, _, rest in pairs if first}


def check_another(run: Path, other: str) -> None:
    """Refuse to lay a run beside itself.

    Raises:
        SteppeError: both are one folder.
    """
    if Path(other).resolve() == run.resolve():
        raise SteppeError(
            "a run is laid beside another",
            got=f"--beside {other}, the run itself",
            way_out="--beside the dense run",
        )


def check_limit(limit: int | None) -> None:
    """Refuse a limit that leaves no image.

    Raises:
        SteppeError: it is below 1.
    """
    if limit is not None and limit < 1:
        raise SteppeError(
            "--limit is a number of images of 1 or more", got=limit, way_out="leave it out"
        )


def trained(path: Path) -> tuple[Recipe, ImageData, nn.Module]:
    """The recipe, images and network of a finished run, its channels removed or not; in eval mode.

    Raises:
        SteppeError: the folder is no run, or the run is not finished.
    """
    recipe = read_run(path)
    data, model = TASKS[recipe.task].opened(recipe)
    if (path / TEXT).exists():
        model = load_removed(path, lambda: model)
    else:
        load_weights(model, str(path))
    return recipe, data, model.eval()


@dataclass
class ImageRun:
    """What a run is made of.

    Args:
        recipe: of the run.
        data: its images.
        model: its network with the final weights, in eval mode, on ``device``; normalised images
            go in.
        device: where it computes.
        path: the run's folder.
    """

    recipe: Recipe
    data: ImageData
    model: nn.Module
    device: str
    path: Path

    @classmethod
    def read(cls, run: str, device: str, on: str) -> ImageRun:
        """Load a run's folder.

        Args:
            run: the folder.
            device: where to measure.
            on: the measurement, for error messages.

        Raises:
            SteppeError: it is no finished run of images, or the device does not exist.
        """
        path = Path(run)
        if (path / "config.json").exists() and not was_trained(path / "recipe.yaml"):
            raise SteppeError(
                f"--on {on} measures runs of steppe train",
                got=f"{path}, which holds a language model",
                way_out="--on perplexity --text FILE",
            )
        there = device_of(device)
        recipe, data, model = trained(path)
        return cls(recipe, data, model.to(there), device, path)

    def beside(self, other: str, part: str, *, pixels: bool = False) -> ImageRun:
        """Another run on the same images, usually the dense one.

        Args:
            other: its folder.
            part: test, validation or train.
            pixels: whether the other network is given this run's pixels instead of its own data's.

        Raises:
            SteppeError: it is this run, no finished run, a detector's, or its images are others (or
                of another shape, where it is given this run's).
        """
        check_another(self.path, other)
        run = ImageRun.read(other, self.device, "clean")
        if run.recipe.task == DETECTION:
            raise SteppeError(
                "classifiers are laid beside classifiers",
                got=f"{other}, a run of task {DETECTION}",
                way_out=f"--beside with a run of task {self.recipe.task}",
            )
        own, theirs = (r.loader(part).split.labels for r in (self, run))
        if not torch.equal(own, theirs) or not _look_alike(self, run, part):
            raise SteppeError(
                "two runs are compared on the same images",
                got=f"{other}, whose {part} images are others",
                way_out="--beside with a run of the same data",
            )
        mine, its = (list(r.data.shape) for r in (self, run))
        if pixels and mine != its:
            raise SteppeError(
                "a network that is given another run's pixels takes images of their shape",
                got=f"{mine} here, {its} in {other}",
                way_out="--beside with a run whose recipe has the same data.size and channels",
            )
        return run

    @property
    def on_pixels(self) -> nn.Module:
        """The network that takes images in [0, 1]: normalisation inside, logits out."""
        whole = Normalised(_Logits(self.model), self.data.mean, self.data.std)
        return whole.to(self.device).eval()

    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> booleans, True = kept; none where nothing was pruned."""
        path = self.path / "masks.safetensors"
        if not path.exists():
            return {}
        try:
            masks = unpack(load_tensors(path))
        except (LookupError, ValueError) as error:  # tensors of another kind, or of other shapes
            if isinstance(error, SteppeError):
                raise
            raise damaged(path, error) from None
        return {name: mask.to(self.device) for name, mask in masks.items()}

    def loader(self, part: str, batch: int = 500) -> Loader:
        """A part's images as the network takes them, in stored order, none changed."""
        return Loader.of(
            self.data,
            part,
            batch,
            device=self.device,
            shuffle=False,
            augment=None,
            drop_last=False,
        )

    def images(self, part: str, limit: int | None = None) -> LabelledImages:
        """A part's images in [0, 1] with their labels, read when they are needed.

        Args:
            part: test, validation or train.
            limit: the first so many; None: all.

        Raises:
            SteppeError: a limit below 1.
        """
        check_limit(limit)
        loader = self.loader(part)
        split = loader.split
        reader = split.reader(Pipeline(), 0, loader.workers, False)

        def read(chosen: slice) -> Tensor:
            positions = torch.arange(chosen.start, chosen.stop)
            images = torch.cat(list(reader.read(0, iter(positions.split(READ)))))
            return images.float() / split.white

        return LabelledImages(split.labels[:limit], read)

    def pixels(self, part: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """A part's images in [0, 1], float32, and their labels; the first ``limit``.

        Raises:
            SteppeError: a limit below 1, or more images than memory should hold.
        """
        images = self.images(part, limit)
        count, values = len(images.labels), math.prod(self.data.shape)
        if 4 * count * values > MOST_BYTES:
            raise SteppeError(
                f"a measurement that keeps its images in memory takes at most "
                f"{MOST_BYTES // (4 * values):,} of this size",
                got=f"{count:,}",
                way_out="--limit 1000",
            )
        return images.read(slice(0, count)), images.labels

    @property
    def framing(self) -> tuple[Any, ...]:
        """What the pixels of an image depend on, beside the image itself."""
        return (self.data.shape, *(getattr(self.recipe.data, key) for key in _FRAMED))

    @property
    def fit(self) -> Fit | None:
        """What brings a published image to the network's size, as its own images were brought."""
        spec = self.recipe.data
        if spec.size is None:
            return None
        framing = ResizeCenterCrop(spec.size, spec.resize, spec.interpolation)
        return lambda image: framing(*image.size).of(image)


def _look_alike(own: ImageRun, other: ImageRun, part: str) -> bool:
    """Whether some images of a part have the same pixels in both; true of images framed otherwise.

    Two datasets of as many images in each class have the same labels.
    """
    if own.framing != other.framing:
        return True
    both = own.images(part), other.images(part)
    step = max(len(both[0].labels) // LOOKED_AT, 1)
    places = range(0, len(both[0].labels), step)
    return all(torch.equal(*(images.read(slice(i, i + 1)) for images in both)) for i in places)
