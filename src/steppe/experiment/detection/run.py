"""A finished run of a detector, ready to be measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.device import device_of
from steppe.core.errors import SteppeError
from steppe.experiment.detection.experiment import TESTED
from steppe.experiment.detection.recipe import TASK, DetectionRecipe
from steppe.experiment.image_run import check_another, check_limit, trained
from steppe.vision.detection.data import DetectionData
from steppe.vision.detection.data.base import Scene
from steppe.vision.detection.data.parts import first_to_find, something_to_find
from steppe.vision.detection.examples import SHOWN, example
from steppe.vision.detection.loader import DetectionLoader
from steppe.vision.detection.reading import detect
from steppe.vision.detection.targets import objects


class Pixels:
    """Batches of images in [0, 1] with their objects; they are read anew each time.

    So that of all images only those of a batch are in memory, however often they are gone through.

    Args:
        loader: of the images.
        mean: of their channels, ``[1, c, 1, 1]``.
        std: as ``mean``.
    """

    def __init__(self, loader: DetectionLoader, mean: Tensor, std: Tensor) -> None:
        self.loader, self.mean, self.std = loader, mean, std

    def __iter__(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        for x, y in self.loader.epoch(0):
            levels = (x * self.std + self.mean).mul(255).round().div(255)  # as they are stored
            yield levels.clamp(0, 1), objects(y.cpu())


@dataclass
class DetectionRun:
    """What a run of a detector is made of.

    Args:
        recipe: of the run.
        data: its images.
        model: its network with the final weights, in eval mode, on ``device``.
        device: where it computes.
        path: the run's folder.
    """

    recipe: DetectionRecipe
    data: DetectionData
    model: nn.Module
    device: str
    path: Path

    @classmethod
    def read(cls, run: str, device: str) -> DetectionRun:
        """Load a run's folder.

        Raises:
            SteppeError: it is no finished run of a detector, or the device does not exist.
        """
        there = device_of(device)
        path = Path(run)
        recipe, data, model = trained(path)
        if not (isinstance(recipe, DetectionRecipe) and isinstance(data, DetectionData)):
            raise SteppeError(
                "detectors are laid beside detectors",
                got=f"{run}, a run of task {recipe.task}",
                way_out=f"a run of task {TASK}",
            )
        return cls(recipe, data, model.to(there), device, path)

    def beside(self, other: str, part: str) -> DetectionRun:
        """Another detector on the same images, usually the dense one.

        Raises:
            SteppeError: it is this run, or its images, objects, classes or size are others.
        """
        check_another(self.path, other)
        run = DetectionRun.read(other, self.device)
        mine, its = ((r.data.shape, r.data.classes) for r in (self, run))
        if mine != its or not same_scenes(*(r.data.part(part).scenes for r in (self, run))):
            raise SteppeError(
                "two detectors are compared on the same images, objects, classes and size",
                got=f"{other}, whose {part} images are others, or labelled otherwise",
                way_out="--beside with a run of the same data",
            )
        return run

    def loader(self, part: str) -> DetectionLoader:
        """A part's images as the network takes them, in stored order, none changed.

        Raises:
            SteppeError: none of their objects counts, so that nothing can be measured.
        """
        self.check_measurable(part)
        return self._loader(self.data, part)

    def check_measurable(self, part: str, limit: int | None = None) -> None:
        """Whether images have an object that counts.

        Args:
            part: train, validation or test.
            limit: the first so many images.

        Raises:
            SteppeError: none has, or a limit below 1.
        """
        check_limit(limit)
        scenes = self.data.part(part).scenes
        something_to_find(scenes, part, self.data.name, "another --part")
        more = f"--limit {first_to_find(scenes)} or more, or leave it out"
        something_to_find(scenes[:limit], part, self.data.name, more)

    def _loader(self, data: DetectionData, part: str) -> DetectionLoader:
        workers = self.recipe.data.workers
        return DetectionLoader(data, part, TESTED, device=self.device, workers=workers)

    def pixels(self, part: str, limit: int | None = None) -> Pixels:
        """A part's images in [0, 1] at the network's size, with their objects.

        Args:
            part: train, validation or test.
            limit: the first so many images.

        Raises:
            SteppeError: a limit below 1.
        """
        check_limit(limit)
        split = self.data.part(part)
        few: dict[str, Any] = {} if limit is None else {part: split.of(split.scenes[:limit])}
        return Pixels(self._loader(replace(self.data, **few), part), *self._colours())

    @torch.no_grad()
    def examples(self, pixels: Tensor, there: Sequence[Tensor]) -> list[dict[str, Any]]:
        """The first images of a batch with what is found in them, see `example`.

        Args:
            pixels: in [0, 1] at the network's size.
            there: the objects of each.
        """
        few = pixels[:SHOWN]
        found = detect(self.model, self.normalised(few))
        rows = zip(few, found, there[:SHOWN], strict=True)
        return [example(i, *row, self.data.classes) for i, row in enumerate(rows)]

    def normalised(self, pixels: Tensor) -> Tensor:
        """Images in [0, 1] as the network takes them."""
        mean, std = self._colours()
        return (pixels - mean) / std

    def _colours(self) -> tuple[Tensor, Tensor]:
        colours = (torch.tensor(c, device=self.device) for c in (self.data.mean, self.data.std))
        mean, std = (c.view(1, -1, 1, 1) for c in colours)
        return mean, std


def same_scenes(own: Sequence[Scene], theirs: Sequence[Scene]) -> bool:
    """Whether two parts are the same images with the same objects, wherever they are stored."""
    return len(own) == len(theirs) and all(map(_same, own, theirs))


def _same(own: Scene, other: Scene) -> bool:
    return torch.equal(own.objects, other.objects) and (
        own.where == other.where or own.image.read_bytes() == other.image.read_bytes()
    )
