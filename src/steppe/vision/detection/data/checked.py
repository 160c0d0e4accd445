"""Objects that a network can learn from: each has a class, an area, and lies in its image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.vision.detection.data.base import Object, Picture
from steppe.vision.detection.data.depth import Depths
from steppe.vision.detection.data.images import header
from steppe.vision.detection.data.scenes import Gathered, Scenes

NO_NAME, UNKNOWN, NO_AREA, OUTSIDE, CUT = (
    "without a class",
    "of a class that is not known",
    "without area",
    "outside its image",
    "cut",
)
HAIR = 1.0
"""Pixels by which a box may reach beyond its image: tools round, and some count from 1."""


class Checker:
    """Turns pictures into scenes; bad objects are refused, or left out and counted.

    A box that reaches beyond its image by at most a pixel is cut there, and counted.

    Args:
        classes: names in label order.
        skip_invalid: leave out what is refused otherwise.
    """

    def __init__(self, classes: Sequence[str], skip_invalid: bool) -> None:
        self.classes, self.skip_invalid = tuple(classes), skip_invalid
        self._labels = {name: label for label, name in enumerate(classes)}
        self.left_out: Counter[str] = Counter()
        self.depths = Depths()
        self.cut = 0
        self._first: dict[str, str] = {}

    def scenes(self, pictures: Iterable[Picture]) -> Scenes:
        """All pictures, with their valid objects.

        Raises:
            SteppeError: an image is not there, or of another size than its annotation says; an
                object is bad and none is to be left out.
        """
        gathered = Gathered()
        for picture in pictures:
            size = self._size(picture)
            gathered.add(picture.image, picture.where, size, self._rows(picture.objects, *size))
        return gathered.scenes()

    def notes(self) -> list[str]:
        """What was left out or cut, in sentences with counts."""
        left_out = [
            f"{counted(count, 'box', 'boxes')} {fault} left out, such as {self._first[fault]}"
            for fault, count in sorted(self.left_out.items())
        ]
        boxes = f"{counted(self.cut, 'box', 'boxes')} at most a pixel {OUTSIDE} cut at its edge"
        return left_out + ([f"{boxes}, such as {self._first[CUT]}"] if self.cut else [])

    def _size(self, picture: Picture) -> tuple[int, int]:
        own = header(picture.image, picture.where)
        self.depths.add(own, picture.image, picture.where)
        width, height = own.size
        if picture.size is not None and picture.size != (width, height):
            raise SteppeError(
                "an image must have the size that its annotation says",
                got=f"{width} x {height} pixels in {picture.where}, annotated as "
                f"{picture.size[0]} x {picture.size[1]}",
                consequence="its boxes would lie elsewhere",
                way_out="correct the annotation, or restore the image",
            )
        return width, height

    def _rows(self, objects: Iterable[Object], width: int, height: int) -> list[list[float]]:
        rows = []
        for found in objects:
            inside = _cut(found, width, height)
            fault = self._fault(inside, width, height)
            if fault is None:
                rows.append(self._row(inside, width, height))
                if inside is not found:
                    self.cut += 1
                    self._first.setdefault(CUT, found.where)
            elif self.skip_invalid:
                self.left_out[fault] += 1
                self._first.setdefault(fault, found.where)
            else:
                raise self._refused(found, fault, width, height)
        return rows

    def _row(self, found: Object, width: int, height: int) -> list[float]:
        left, top, right, bottom = found.box
        box = [left / width, top / height, right / width, bottom / height]
        return [*box, float(self._labels[found.name]), float(found.flag)]

    def _fault(self, found: Object, width: int, height: int) -> str | None:
        left, top, right, bottom = found.box
        if not found.name:
            return NO_NAME
        if found.name not in self._labels:
            return UNKNOWN
        if not (left < right and top < bottom):  # NaN too
            return NO_AREA
        inside = left >= 0 and top >= 0 and right <= width and bottom <= height
        return None if inside else OUTSIDE

    def _refused(self, found: Object, fault: str, width: int, height: int) -> SteppeError:
        box = ", ".join(f"{name} {side:g}" for name, side in found.stored.items())
        box = f"{box} (counted from {found.first}) in an image of {width} x {height} pixels"
        known = f"; known classes: {', '.join(self.classes)}"
        return SteppeError(
            "an object has a known class and a box with area in its image",
            got=f"{found.where}, {fault}: "
            + (f"{found.name!r}" if fault in (NO_NAME, UNKNOWN) else box),
            consequence="it could be neither learned nor found",
            way_out="correct it, or leave such objects out with --skip-invalid "
            f"(data.skip_invalid: true){known if fault == UNKNOWN else ''}",
        )


def _cut(found: Object, width: int, height: int) -> Object:
    """The object itself, or where its box reaches beyond the image by a hair one that does not."""
    left, top, right, bottom = found.box
    inside = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
    beyond = max(abs(own - cut) for own, cut in zip(found.box, inside, strict=True))
    return replace(found, box=inside) if 0 < beyond <= HAIR else found
