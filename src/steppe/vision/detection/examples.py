"""A few images with what a detector found in them, kept for people to look at."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from steppe.vision.detection.detections import Detections

SHOWN = 2
"""Images, the first of those that are measured: so that every run shows the same."""
LEAST = 0.3
"""The score from which on a box is kept."""
MOST = 40
"""Boxes of an image that are kept, the best."""
QUALITY = 85  # of the JPEG


def example(
    index: int, pixels: Tensor, found: Detections, there: Tensor, classes: Sequence[str]
) -> dict[str, Any]:
    """An image, its objects and what was found, as plain data.

    Args:
        index: of the image among those that are measured.
        pixels: ``[3, h, w]`` in [0, 1].
        found: in the image.
        there: its objects, ``[k, 6]``, see `steppe.vision.detection.targets`.
        classes: their names.

    Returns:
        ``index``, ``image`` (a JPEG as data of a page), ``least`` (the score), ``objects`` and
        ``found``: rows of left, top, right, bottom as shares, class, and of what was found the
        score.

    Example:
        >>> import torch
        >>> nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
        >>> there = torch.tensor([[0.0, 0.0, 0.5, 0.5, 0, 0]])
        >>> kept = example(0, torch.zeros(3, 8, 8), nothing, there, ("cell",))
        >>> kept["objects"], kept["found"]
        ([[0.0, 0.0, 0.5, 0.5, 'cell']], [])
    """
    sure = found.above(LEAST)
    return {
        "index": index,
        "image": _jpeg(pixels),
        "least": LEAST,
        "objects": [[*_places(row[:4]), classes[int(row[4])]] for row in there],
        "found": [
            [*_places(box), classes[int(label)], round(float(score), 3)]
            for box, label, score in zip(
                sure.boxes[:MOST], sure.labels[:MOST], sure.scores[:MOST], strict=True
            )
        ],
    }


def _places(box: Tensor) -> list[float]:
    return [round(float(side), 4) for side in box]


def _jpeg(pixels: Tensor) -> str:
    levels = pixels.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
