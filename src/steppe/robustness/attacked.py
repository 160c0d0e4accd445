"""Accuracy under attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.attacks import ATTACKS, Attack
from steppe.robustness.image_loss import ImageLoss
from steppe.robustness.second_look import SecondLook
from steppe.robustness.surface import evaluating


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
    sibling: nn.Module | None = None,
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
        sibling: another network for the same images, usually the dense one. Images made for it are
            tried too, as they may fool a network whose own gradients are masked.

    Returns:
        ``clean``, ``accuracy`` (norm -> radius -> fraction), ``attack`` and its options
        (``steps``, ``restarts``, ...), ``images``, ``seed``; ``vanishing`` (norm -> radius -> mean
        share of an image's gradients that vanish), ``probes`` (norm -> radius -> what
        `steppe.robustness.second_look.SecondLook` says, ``doubt`` among it: why the figure cannot
        be trusted).

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
    measured = {
        (norm, eps): _measure(
            attacker, model, sibling, images, labels, batch_size, norm=norm, eps=eps, seed=seed
        )
        for norm, sizes in radii.items()
        for eps in sizes
    }

    def by_radius(value: Callable[[_Measured], Any]) -> dict[str, dict[str, Any]]:
        nested: dict[str, dict[str, Any]] = {}
        for (norm, eps), one in measured.items():
            nested.setdefault(norm, {})[repr(eps)] = value(one)
        return nested

    count = len(images)
    return {
        "clean": next(iter(measured.values())).clean / count,
        "accuracy": by_radius(lambda m: m.right / count),
        "attack": attacker.title,
        **asdict(attacker),
        **attacker.about(),
        "images": count,
        "seed": seed,
        "vanishing": by_radius(lambda m: m.vanishing / count),
        "probes": by_radius(lambda m: m.probed.record()),
    }


@dataclass
class _Measured:
    """Sums over the images, of one radius."""

    clean: int = 0
    right: int = 0
    vanishing: float = 0.0
    probed: SecondLook = field(default_factory=SecondLook)


def _measure(
    attacker: Attack,
    model: nn.Module,
    sibling: nn.Module | None,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    **options: Any,
) -> _Measured:
    """Attack all images at one radius; those made for the sibling count too."""
    device = next((p.device for p in model.parameters()), images.device)
    total = _Measured()
    for first in range(0, len(images), batch_size):
        batch = slice(first, first + batch_size)
        x, y = images[batch].to(device), labels[batch].to(device)
        attacked = attacker(model, x, y, first=first, **options)
        right = attacked.right
        if sibling is not None and bool(right.any()):
            theirs = attacker(sibling, x, y, first=first, **options).images
            with evaluating(model):
                fooled = right & ~ImageLoss(model, y, lambda net, x: net(x))(theirs)[1]
            total.probed += SecondLook(transferred=int(fooled.sum()))
            right = right & ~fooled
        total.right += int(right.sum())
        total.clean += int(attacked.clean.sum())
        total.vanishing += float(attacked.vanishing.sum())
        total.probed += attacked.probed
    return total
