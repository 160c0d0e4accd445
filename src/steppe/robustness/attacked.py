"""Accuracy under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.attacks import ATTACKS


def accuracy_under_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    radii: Mapping[str, Sequence[float]],
    attack: str = "pgd",
    steps: int | None = None,
    restarts: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """The share of images that a network gets right under attack, for each norm and radius.

    Args:
        model: pixels in [0, 1] -> logits ``[n, classes]``, normalisation inside.
        images: ``[n, c, h, w]`` in [0, 1].
        labels: ``[n]``.
        radii: norm -> radii, in units of the pixel range.
        attack: "pgd" or "autoattack"; see `ATTACKS`.
        steps: of the attack's ascent; its own number if left out.
        restarts: how often it starts; an image that falls once has fallen. Its own number if left
            out.
        batch_size: images in a forward pass.
        seed: of the starts.

    Returns:
        ``clean``, ``accuracy`` (norm -> radius -> fraction), ``attack`` and its options
        (``steps``, ``restarts``, ...), ``images``, ``seed``.

    Raises:
        SteppeError: nothing to attack, or what the attack refuses.
    """
    if not any(radii.values()) or not len(images):
        raise SteppeError(
            "an attack needs images and at least one radius",
            got=f"{len(images)} images, radii {dict(radii)}",
            way_out="--eps-linf 1/255",
        )
    given = {"steps": steps, "restarts": restarts}
    chosen = ATTACKS[attack](**{key: value for key, value in given.items() if value is not None})
    device = next((p.device for p in model.parameters()), images.device)
    clean = 0
    found: dict[str, dict[str, float]] = {}
    for norm, sizes in radii.items():
        for eps in sizes:
            clean = right = 0
            for first in range(0, len(images), batch_size):
                part = slice(first, first + batch_size)
                attacked = chosen(
                    model,
                    images[part].to(device),
                    labels[part].to(device),
                    norm=norm,
                    eps=eps,
                    seed=seed,
                    first=first,
                )
                right += int(attacked.right.sum())
                clean += int(attacked.clean.sum())
            found.setdefault(norm, {})[repr(eps)] = right / len(images)
    return {
        "clean": clean / len(images),
        "accuracy": found,
        "attack": chosen.title,
        **asdict(chosen),
        **chosen.about(),
        "images": len(images),
        "seed": seed,
    }
