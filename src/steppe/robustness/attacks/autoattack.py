"""AutoAttack: an ensemble without settings, from the Adversarial Robustness Toolbox."""

from __future__ import annotations

import hashlib
import math
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.core.seeded import seeded
from steppe.robustness.attacks import (
    ATTACKS,
    NORMS,
    Attack,
    Attacked,
    FrozenWeights,
    check_attack,
    check_deterministic,
)
from steppe.robustness.image_loss import ImageLoss, class_scores
from steppe.robustness.second_look import Prober, Worst
from steppe.robustness.straight_through import Followed
from steppe.robustness.surface import evaluating

LIBRARY = "adversarial-robustness-toolbox"
PROBE_STEPS = 10  # of further ascents where gradients vanish
_BATCH, _SHARE = 100, 0.8  # images at once; of an image, Square's first square


@ATTACKS.register("autoattack")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """APGD on cross entropy, APGD on the DLR loss, DeepFool, Square: the worst counts.

    Each attacks the images that are still right; its result is projected into the ball and [0, 1]
    and evaluated again. Random numbers are drawn per batch, so single images may come out
    differently with another batch size. The paper's standard version has targeted APGD and FAB
    where the library has untargeted APGD and DeepFool.

    Args:
        steps: of APGD and DeepFool.
        restarts: of APGD and Square.
        queries: of Square.

    Source: Croce & Hein 2020; the library's parts, with 2 eps as APGD's first step.
    """

    title = "AutoAttack (APGD-CE, APGD-DLR, DeepFool, Square)"

    steps: int = 100
    restarts: int = 1
    queries: int = 5000

    def __post_init__(self) -> None:
        if min(self.steps, self.restarts, self.queries) < 1:
            raise SteppeError(
                "autoattack needs steps, restarts and queries",
                got=f"{self.steps}, {self.restarts}, {self.queries}",
                way_out="leave them out: it has its own",
            )

    def about(self) -> dict[str, Any]:
        return {"library": f"{LIBRARY} {version(LIBRARY)}"}

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        norm: str,
        eps: float,
        seed: int = 0,
        first: int = 0,
    ) -> Attacked:
        radius = images.new_full((len(images), 1, 1, 1), eps)
        check_attack(images, labels, radius, self.steps, self.restarts)
        ball = NORMS[norm]()
        # it computes on the current device
        device = torch.cuda.device(images.device) if images.is_cuda else nullcontext()
        key = f"{seed}/{norm}/{eps}/{first}".encode()
        # the library draws from the generators that everybody shares
        start = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
        with device, evaluating(model), FrozenWeights(model), seeded(start):
            image_loss = ImageLoss(model, labels, lambda net, x: net(x))
            classes = _classes(image_loss, images)
            loss, clean = check_deterministic(image_loss, images)
            worst = Worst(images, radius, ball, images.clone(), loss, clean)
            judged = image_loss.with_gradient(images)
            for attack in self._attacks(model, images, classes, ball.order, float(eps)):
                right = worst.right
                if not right.any():
                    break
                x, truth = images[right], torch.eye(classes)[labels[right].cpu()]
                with np.errstate(all="ignore"):  # Square divides 0 by 0 at 8 x 8
                    array = attack.generate(x.float().cpu().numpy().copy(), truth.numpy())
                new = torch.from_numpy(array).to(x)
                moved = ball.project(torch.where(new.isfinite(), new, x) - x, radius[right])
                candidate = worst.points.clone()
                candidate[right] = (x + moved).clamp(0.0, 1.0)
                worst.visit(candidate, *image_loss(candidate))
            probed = Prober(image_loss, worst, clean, PROBE_STEPS, seed, first).look(
                judged.lost.float()
            )
        vanishing = judged.vanishes.to(loss.dtype)
        return Attacked(worst.points, worst.loss, worst.right, clean, vanishing, probed)

    def _attacks(
        self, model: nn.Module, images: Tensor, classes: int, order: float, eps: float
    ) -> list[Any]:
        """The library's attacks on this network, in the order in which they are tried."""
        library = require("art", install="'steppe[attacks]'", purpose="autoattack")
        evasion = library.attacks.evasion
        wrapped = library.estimators.classification.PyTorchClassifier(
            _Scores(model),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if images.is_cuda else "cpu",
        )
        if eps == 0:  # the library takes none
            return []
        batch: dict[str, Any] = {"batch_size": _BATCH, "verbose": False}
        ball = {"norm": order, "eps": eps, **batch}
        ascent = {"eps_step": 2 * eps, "max_iter": self.steps, "nb_random_init": self.restarts}
        apgd = evasion.AutoProjectedGradientDescent
        return [
            apgd(wrapped, loss_type="cross_entropy", **ascent, **ball),
            apgd(wrapped, loss_type="difference_logits_ratio", **ascent, **ball),
            evasion.DeepFool(wrapped, max_iter=self.steps, epsilon=1e-3, **batch),
            evasion.SquareAttack(
                wrapped, max_iter=self.queries, nb_restarts=self.restarts, p_init=_SHARE, **ball
            ),
        ]


class _Scores(nn.Module):
    """A network as the library takes it: scores before a softmax, with a gradient if only zero."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, classes]``."""
        try:
            scores = self._of(x)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or not x.requires_grad:
                raise
            scores = self._of(x.detach())  # it computes outside torch
        if x.requires_grad and not scores.requires_grad:
            scores = scores + 0 * x.flatten(1).sum(1, keepdim=True)
        return scores

    def _of(self, x: Tensor) -> Tensor:
        with Followed() as followed:
            output = self.model(x)
        return class_scores(followed.scores(output))


def _classes(image_loss: ImageLoss, images: Tensor) -> int:
    """How many classes the network has, if the attacks can work with it and the images."""
    with torch.no_grad():
        classes = image_loss.scores(images).shape[1]
    height, width = images.shape[-2:]
    square = round(math.sqrt(_SHARE * height * width)) | 1  # odd, as the library makes it
    known = images.device.type in ("cpu", "cuda")
    if classes < 3 or height != width or square >= height or not known:
        raise SteppeError(
            "autoattack needs three classes, square images above its first square, cpu or cuda",
            got=f"{classes} classes, {height} x {width} with a square of {square}, {images.device}",
            way_out="--attack pgd",
        )
    return classes
