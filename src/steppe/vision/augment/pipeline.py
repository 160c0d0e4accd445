"""Augmentations in a row: framing, then changes of one image, then of batches and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from steppe.core.errors import SteppeError
from steppe.vision.augment.kinds import Augmentation, FramingStep, ImageStep, Mixing

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Pipeline:
    """What is done to training images.

    Args:
        framing: which part of an image is kept; None: what evaluation keeps.
        images: changes of one image, in this order, made where it is decoded.
        batch: a change of a whole batch.
        mixing: of pairs of images; of several, each batch takes one, all equally often.

    Example:
        >>> from steppe.vision.augment.flip import Flip
        >>> Pipeline.of([Flip()]).images
        (Flip(p=0.5),)
    """

    framing: FramingStep | None = None
    images: tuple[ImageStep, ...] = ()
    batch: Augmentation | None = None
    mixing: tuple[Mixing, ...] = ()

    @classmethod
    def of(cls, steps: Sequence[object]) -> Pipeline:
        """Steps in the order of a recipe.

        Raises:
            SteppeError: a step that is none, two where one may be, or an order that cannot be.
        """
        framing = _of_kind(steps, FramingStep)
        batch = [step for step in steps if isinstance(step, Augmentation)]
        images, mixing = _of_kind(steps, ImageStep), _of_kind(steps, Mixing)
        for step in steps:
            if not any(step is known for known in (*framing, *batch, *images, *mixing)):
                raise SteppeError(
                    "an augmentation needs draw(n, generator), __call__(images, draws), normalised",
                    got=type(step).__name__,
                    way_out="CropFlip(pad=4, flip=True), a name, or see steppe.vision.augment",
                )
        for what, found in (("that frames images", framing), ("of whole batches", batch)):
            if len(found) > 1:
                raise SteppeError(
                    f"there can be one augmentation {what}",
                    got=" and ".join(_named(step) for step in found),
                    way_out="leave one of them out",
                )
        rank: list[Any] = [*framing, *images, *batch, *mixing]
        if list(map(id, rank)) != list(map(id, steps)):
            raise SteppeError(
                "augmentations go from framing over single images and batches to mixtures",
                got=", ".join(map(_named, steps)),
                way_out=f"augment [{', '.join(map(_named, rank))}]",
            )
        if images and any(step.frames for step in images) and framing:
            raise SteppeError(
                "images are framed once",
                got=", ".join(map(_named, steps)),
                way_out=f"{_named(framing[0])} or the transform of yours, not both",
            )
        return cls(
            framing[0] if framing else None,
            tuple(images),
            batch[0] if batch else None,
            tuple(mixing),
        )

    @property
    def of_single_images(self) -> bool:
        """Whether it changes images where they are decoded."""
        return self.framing is not None or bool(self.images)

    @property
    def frames(self) -> bool:
        """Whether it decides which part of an image is kept."""
        return self.framing is not None or any(step.frames for step in self.images)


def _of_kind(steps: Sequence[object], kind: type[Kind]) -> list[Kind]:
    return [step for step in steps if isinstance(step, kind)]


def _named(step: object) -> str:
    return str(getattr(step, "name", type(step).__name__))


def as_pipeline(what: Augmentation | Pipeline | None) -> Pipeline:
    """An augmentation of batches alone, or none, as a pipeline."""
    if isinstance(what, Pipeline):
        return what
    return Pipeline(batch=what)
