"""Accuracy on new images of the same classes (distribution shift)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.robustness.published import Fit, LabelledImages, accuracy_on, published
from steppe.robustness.surface import evaluating


@torch.no_grad()
def accuracy_under_shift(
    model: nn.Module,
    images: Tensor | LabelledImages,
    labels: Tensor | None = None,
    *,
    shifted: str | Path,
    batch_size: int = 500,
    fit: Fit | None = None,
) -> dict[str, Any]:
    """The share of images collected anew that a network gets right, for each variant there is.

    ``R_V2 = acc_V2 / acc_val``, one for each variant: they differ in difficulty, and no paper takes
    their mean. AdaSAP's is that of matched-frequency.

    Args:
        model: pixels in [0, 1] -> logits ``[n, classes]``, normalisation inside; eval mode.
        images: ``[n, c, h, w]`` in [0, 1], what it was validated on; or what reads them when they
            are needed.
        labels: ``[n]``, where images are a tensor.
        shifted: a folder of the new images, or a dataset's id (`steppe.robustness.published` has
            the layouts: ImageNet-V2).
        batch_size: images in a forward pass; changes nothing.
        fit: brings new images to the network's size; None scales them to cover it and crops to the
            middle.

    Returns:
        ``clean``, ``variants`` (name -> fraction; of ImageNet-V2's three, matched-frequency first),
        ``r_v2`` (name -> R_V2), ``images`` (name -> how many, with "clean"), ``source``.

    Raises:
        SteppeError: no images, or new ones that are not there or not of the network's classes.

    Source: Recht et al. 2019; R_V2: AdaSAP.
    """
    given = LabelledImages.of(images, labels)
    first = given.read(slice(0, 1))
    layout = published(shifted, "shifted")
    channels, height, width = first.shape[1:]
    device = next((p.device for p in model.parameters()), first.device)
    with evaluating(model):
        names = layout.variants()
        layout.check(model(first.to(device)).shape[1], names)
        new = {name: layout.images(name, (channels, height, width), fit=fit) for name in names}
        clean = accuracy_on(model, given, batch_size)
        variants = {name: accuracy_on(model, own, batch_size) for name, own in new.items()}
    return {
        "clean": clean,
        "variants": variants,
        # a network that is never right has no accuracy to keep: 0, not a division by zero
        "r_v2": {name: share / clean if clean else 0.0 for name, share in variants.items()},
        "images": {"clean": len(given.labels)}
        | {name: len(own.labels) for name, own in new.items()},
        "source": str(shifted),
    }
