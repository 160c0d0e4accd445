"""Accuracy under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.attacks import pgd


def accuracy_under_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    radii: Mapping[str, Sequence[float]],
    steps: int = 10,
    restarts: int = 1,
    batch_size: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """The share of images that a network gets right after `pgd`, for each norm and radius.

    Args:
        model: pixels in [0, 1] -> logits ``[n, classes]``, normalisation inside.
        images: ``[n, c, h, w]`` in [0, 1].
        labels: ``[n]``.
        radii: norm -> radii, in units of the pixel range.
        steps: of the attack, each of eps / 4.
        restarts: how often it starts; an image that falls once has fallen.
        batch_size: images in a forward pass.
        seed: of the starts.

    Returns:
        ``clean``, ``accuracy`` (norm -> radius -> fraction), ``attack``, ``steps``, ``restarts``,
        ``images``, ``seed``.

    Raises:
        SteppeError: nothing to attack, or what `pgd` refuses.
    """
    if not any(radii.values()) or not len(images):
        raise SteppeError(
            "an attack needs images and at least one radius",
            got=f"{len(images)} images, radii {dict(radii)}",
            way_out="--eps-linf 1/255",
        )
    device = next((p.device for p in model.parameters()), images.device)
    clean = 0
    found: dict[str, dict[str, float]] = {}
    for norm, sizes in radii.items():
        for eps in sizes:
            clean = right = 0
            for first in range(0, len(images), batch_size):
                part = slice(first, first + batch_size)
                attacked = pgd(
                    model,
                    images[part].to(device),
                    labels[part].to(device),
                    norm=norm,
                    eps=eps,
                    steps=steps,
                    restarts=restarts,
                    seed=seed,
                    first=first,
                )
                right += int(attacked.right.sum())
                clean += int(attacked.clean.sum())
            found.setdefault(norm, {})[repr(eps)] = right / len(images)
    return {
        "clean": clean / len(images),
        "accuracy": found,
        "attack": "PGD",
        "steps": steps,
        "restarts": restarts,
        "images": len(images),
        "seed": seed,
    }
