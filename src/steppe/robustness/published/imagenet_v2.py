"""ImageNet-V2: new photographs, chosen in three ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from steppe.core.errors import SteppeError
from steppe.core.variants import in_order, variant_of
from steppe.robustness.published import (
    IMAGE_FILES,
    PUBLISHED,
    Fit,
    LabelledImages,
    Layout,
    Shape,
    check_labels,
    folders,
    images_of_classes,
)


@PUBLISHED.register("imagenet_v2")
class ImageNetV2(Layout):
    """A folder of the class folders 0, 1, ..., each named by its index; or several such folders.

    A folder whose name says which of the three variants it holds is called by the variant's name.

    Source: Recht et al. 2019, the three variants as released: matched-frequency, threshold0.7 and
    top-images.
    """

    on = "shifted"
    description = "class folders 0, 1, ... of images, or folders of such (ImageNet-V2)"
    files = IMAGE_FILES

    @classmethod
    def matches(cls, folder: Path) -> bool:
        return _is_variant(folder) or any(map(_is_variant, folders(folder)))

    def variants(self) -> list[str]:
        return in_order(list(self._variants()))

    def _variants(self) -> dict[str, Path]:
        if _is_variant(self.folder):
            return {variant_of(self.name): self.folder}
        by_name: dict[str, Path] = {}
        for path in (p for p in folders(self.folder) if _is_variant(p)):
            name = variant_of(path.name)
            if name in by_name:
                raise SteppeError(
                    "each variant of a published set is there once",
                    got=f"{name} in {by_name[name]} and in {path}",
                    way_out="--shifted with the folder of one of them",
                )
            by_name[name] = path
        return by_name

    def check(self, classes: int, names: Sequence[str], severities: Sequence[int] = ()) -> None:
        present = self._variants()
        for name in names:
            by_label = _classes(present[name])
            check_labels(torch.tensor(sorted(by_label)), classes)
            missing = [str(label) for label in range(classes) if label not in by_label]
            if missing:
                raise SteppeError(
                    "a published set has a folder for each class of the network, named 0, 1, ...",
                    got=f"{len(missing)} missing in {present[name]}: {', '.join(missing[:8])}",
                    way_out="fetch it again",
                )

    def images(
        self, name: str, shape: Shape, severity: int | None = None, fit: Fit | None = None
    ) -> LabelledImages:
        return images_of_classes(sorted(_classes(self._variants()[name]).items()), shape, fit)


def _classes(folder: Path) -> dict[int, Path]:
    return {int(p.name): p for p in folders(folder) if p.name.isdecimal()}


def _is_variant(folder: Path) -> bool:
    """Class folders named by numbers; those of ImageNet-C's severities hold folders again."""
    by_label = _classes(folder)
    return bool(by_label) and not folders(by_label[min(by_label)])
