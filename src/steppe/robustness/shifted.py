"""Accuracy on new images of the same classes (distribution shift)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.published import LabelledImages, accuracy_on, published
from steppe.robustness.surface import evaluating


@torch.no_grad()
def accuracy_under_shift(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    shifted: str | Path,
    batch_size: int = 500,
) -> dict[str, Any]:
    """The share of images collected anew that a network gets right, for each variant there is.

    ``R_V2 = acc_V2 / acc_val``, one for each variant: they differ in difficulty, and no paper takes
    their mean. AdaSAP's is that of matched-frequency.

    Args:
        model: pixels in [0, 1] -> logits ``[n, classes]``, normalisation inside; eval mode.
        images: ``[n, c, h, w]`` in [0, 1], what it was validated on.
        labels: ``[n]``.
        shifted: a folder of the new images, or a dataset's id (`steppe.robustness.published` has
            the layouts: ImageNet-V2).
        batch_size: images in a forward pass; changes nothing.

    Returns:
        ``clean``, ``variants`` (name -> fraction; of ImageNet-V2's three, matched-frequency first),
        ``r_v2`` (name -> R_V2), ``images`` (name -> how many, with "clean"), ``source``.

    Raises:
        SteppeError: no images, or new ones that are not there or not of the network's classes.

    Source: Recht et al. 2019; R_V2: AdaSAP.
    """
    if not len(images) or len(images) != len(labels):
        raise SteppeError(
            "accuracy needs images and one label each",
            got=f"{len(images)} images, {len(labels)} labels",
        )
    layout = published(shifted, "shifted")
    channels, height, width = images.shape[1:]
    device = next((p.device for p in model.parameters()), images.device)
    with evaluating(model):
        names = layout.variants()
        layout.check(model(images[:1].to(device)).shape[1], names)
        new = {name: layout.images(name, (channels, height, width)) for name in names}
        original = LabelledImages(labels, lambda chosen: images[chosen])
        clean = accuracy_on(model, original, batch_size)
        variants = {name: accuracy_on(model, own, batch_size) for name, own in new.items()}
    return {
        "clean": clean,
        "variants": variants,
        # a network that is never right has no accuracy to keep: 0, not a division by zero
        "r_v2": {name: share / clean if clean else 0.0 for name, share in variants.items()},
        "images": {"clean": len(images)} | {name: len(own.labels) for name, own in new.items()},
        "source": str(shifted),
    }
