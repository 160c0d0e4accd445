"""The pixels of a view, at the size that a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steppe.vision.detection.augment import View


def render(image: Image.Image, view: View, size: int, mean: Sequence[float]) -> Image.Image:
    """What is seen of an image, scaled to ``size`` times ``size`` pixels.

    Only the part of the window that lies in the image is scaled, at once to where it is seen; so
    zooming out costs no larger image.

    Args:
        image: the whole image.
        view: of it.
        size: of the result.
        mean: colour in [0, 1] of what lies beyond the image.
    """
    left, top, right, bottom = view.window
    width, height = image.size
    box = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
    levels = tuple(round(255 * m) for m in mean)
    canvas = Image.new(image.mode, (size, size), levels if len(levels) > 1 else levels[0])
    if box[2] <= box[0] or box[3] <= box[1]:
        return canvas  # a window beside the image, of one without objects
    scale_x, scale_y = size / (right - left), size / (bottom - top)
    x, y = round((box[0] - left) * scale_x), round((box[1] - top) * scale_y)
    x_end, y_end = round((box[2] - left) * scale_x), round((box[3] - top) * scale_y)
    wide, high = max(min(x_end, size) - x, 1), max(min(y_end, size) - y, 1)
    seen = image.resize((wide, high), Image.Resampling.BILINEAR, box=box)
    if seen.size != (size, size):
        canvas.paste(seen, (min(x, size - 1), min(y, size - 1)))
        seen = canvas
    return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else seen


def pixels(image: Image.Image) -> Tensor:
    """``[c, h, w]``, uint8."""
    levels = np.array(image, dtype=np.uint8)
    tensor = torch.from_numpy(levels if levels.ndim == 3 else levels[:, :, None])
    return tensor.permute(2, 0, 1).contiguous()
