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
        steps: of the attack's ascent; the attack's own number if left out.
        restarts: how often it starts; an image counts as wrong if any start succeeds. The
            attack's own number if left out.
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
    options = {"steps": steps, "restarts": restarts}
    given = {key: value for key, value in options.items() if value is not None}
    attacker = ATTACKS[attack](**given)
    device = next((p.device for p in model.parameters()), images.device)
    clean = 0
    accuracy: dict[str, dict[str, float]] = {}
    for norm, sizes in radii.items():
        for eps in sizes:
            clean = right = 0
            for first in range(0, len(images), batch_size):
                batch = slice(first, first + batch_size)
                attacked = attacker(
                    model,
                    images[batch].to(device),
                    labels[batch].to(device),
                    norm=norm,
                    eps=eps,
                    seed=seed,
                    first=first,
                )
                right += int(attacked.right.sum())
                clean += int(attacked.clean.sum())
            accuracy.setdefault(norm, {})[repr(eps)] = right / len(images)
    return {
        "clean": clean / len(images),
        "accuracy": accuracy,
        "attack": attacker.title,
        **asdict(attacker),
        **attacker.about(),
        "images": len(images),
        "seed": seed,
    }
