"""A detector whose outputs depend on no other image of the batch: two processes train it as one."""

from torch import nn

from steppe.vision.detection.models.ssd import SSD


def build(num_classes, in_shape):
    """Two maps, an eighth and a sixteenth of the side; no norm has statistics of a batch."""
    trunk = nn.Sequential(
        nn.Conv2d(in_shape[0], 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
    )
    extra = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
    return SSD(trunk, [extra], (16, 16), num_classes, in_shape, (0.3, 0.45, 0.6), ((2.0, 3.0),) * 2)
