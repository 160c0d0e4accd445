"""A small single shot detector, for processors without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from steppe.core.errors import SteppeError
from steppe.vision.detection.models import DETECTORS
from steppe.vision.detection.models.ssd import SSD, normed
from steppe.vision.models.resnet18 import ProjectedBlock

LEAST = 32
BASE = (16, 32, 64, 128)
SCALES = (0.08, 0.17, 0.32, 0.55, 0.9)
RATIOS = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0,))


@DETECTORS.register("ssd_small")
def ssd_small(
    num_classes: int,
    in_shape: tuple[int, int, int],
    width: float = 1.0,
    scales: Sequence[float] = SCALES,
    ratios: Sequence[Sequence[float]] = RATIOS,
) -> SSD:
    """Residual blocks and four maps, from an eighth to a 64th of the image's side.

    Args:
        num_classes: kinds of objects.
        in_shape: channels, height, width; 32 pixels or more. Up to 64 the last map is one cell, so
            that in training a batch has two images or more.
        width: factor on the channels.
        scales: of the anchors of the four maps, and one more: shares of the side.
        ratios: of the anchors of the four maps.

    Raises:
        SteppeError: smaller images, another number of ratios or scales, no channel left.
    """
    if min(in_shape[1:]) < LEAST:
        raise SteppeError(
            f"ssd_small takes images of {LEAST} pixels or more",
            got=f"{in_shape[2]} x {in_shape[1]}",
            way_out="larger ones: --set data.size=96, or --input-size of steppe latency",
        )
    a, b, c, d = (round(channels * width) for channels in BASE)
    if a < 1:
        raise SteppeError("width must leave at least one channel of 16", got=f"width={width}")
    if len(ratios) != len(RATIOS):
        raise SteppeError("ssd_small has ratios for four maps", got=f"{len(ratios)} of them")
    trunk = nn.Sequential(
        *normed(in_shape[0], a, 3, 2, 1),
        ProjectedBlock(a, b, 2),
        ProjectedBlock(b, c, 2),
        ProjectedBlock(c, c, 1),
    )
    extras = [
        nn.Sequential(ProjectedBlock(c, d, 2), ProjectedBlock(d, d, 1)),
        ProjectedBlock(d, d, 2),
        nn.Sequential(*normed(d, c, 1), *normed(c, d, 3, 2, 1)),
    ]
    return SSD(trunk, extras, (c, d, d, d), num_classes, in_shape, scales, ratios)
