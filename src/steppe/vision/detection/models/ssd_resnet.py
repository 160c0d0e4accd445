"""SSD300 and SSD512 on ImageNet's residual networks."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.serialization import load_tensors
from steppe.vision.detection.models import DETECTORS
from steppe.vision.detection.models.resnet_trunk import Basic, Bottleneck, ResNetTrunk
from steppe.vision.detection.models.ssd import SSD, normed

SCALES_300 = (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075)
SCALES_512 = (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)
TWO, THREE = (2.0,), (2.0, 3.0)
RATIOS_300 = (TWO, THREE, THREE, THREE, TWO, TWO)
RATIOS_512 = (TWO, THREE, THREE, THREE, THREE, TWO, TWO)
ABOVE = ("layer4.", "fc.")
"""What a classifier has above the trunk."""

InShape = tuple[int, int, int]


def _extra(c_in: int, middle: int, c_out: int, last: tuple[int, int, int]) -> nn.Sequential:
    """1 x 1, then a convolution of kernel, stride and padding that makes the map smaller."""
    return nn.Sequential(*normed(c_in, middle, 1), *normed(middle, c_out, *last))


HALVES, SHRINKS, ENDS = (3, 2, 1), (3, 1, 0), (4, 1, 1)


def _with_weights(trunk: ResNetTrunk, backbone: str | None) -> ResNetTrunk:
    """The trunk with the weights of a classifier, if one is given."""
    if backbone is None:
        return trunk
    path = Path(backbone).expanduser()
    if not path.is_file():
        raise SteppeError(
            "backbone is a safetensors file with the weights of a classifier, named as torchvision "
            "names them",
            got=backbone,
            consequence="there is no such file",
        )
    stored = {k: v for k, v in load_tensors(path).items() if not k.startswith(ABOVE)}
    own = trunk.state_dict()
    wrong = sorted(
        name
        for name in {*own, *stored}
        if not name.endswith("num_batches_tracked")
        and (name not in own or name not in stored or own[name].shape != stored[name].shape)
    )
    if wrong:
        raise SteppeError(
            "the weights of a backbone must be those of the detector's trunk",
            got=f"{path}: {', '.join(wrong[:4])}",
            way_out="conv1.weight, bn1.weight, layer1.0.conv1.weight and so on, of a ResNet of "
            "the same depth",
        )
    trunk.load_state_dict(stored, strict=False)
    return trunk


def _ssd300(
    trunk: ResNetTrunk, last: int, num_classes: int, in_shape: InShape, backbone: str | None
) -> SSD:
    channels = (trunk.channels, 512, 512, 256, 256, last)
    extras = [
        _extra(channels[0], 256, 512, HALVES),
        _extra(512, 256, 512, HALVES),
        _extra(512, 128, 256, HALVES),
        _extra(256, 128, 256, SHRINKS),
        _extra(256, 128, last, SHRINKS),
    ]
    trunk = _with_weights(trunk, backbone)
    return SSD(trunk, extras, channels, num_classes, in_shape, SCALES_300, RATIOS_300)


def _ssd512(trunk: ResNetTrunk, num_classes: int, in_shape: InShape, backbone: str | None) -> SSD:
    channels = (trunk.channels, 512, 512, 256, 256, 256, 256)
    extras = [
        nn.Sequential(*normed(channels[0], 512, 3, 1, 1), *normed(512, 512, 3, 2, 1)),
        _extra(512, 256, 512, HALVES),
        _extra(512, 128, 256, HALVES),
        _extra(256, 128, 256, HALVES),
        _extra(256, 128, 256, HALVES),
        _extra(256, 128, 256, ENDS),
    ]
    trunk = _with_weights(trunk, backbone)
    return SSD(trunk, extras, channels, num_classes, in_shape, SCALES_512, RATIOS_512)


@DETECTORS.register("ssd300_resnet50")
def ssd300_resnet50(num_classes: int, in_shape: InShape, backbone: str | None = None) -> SSD:
    """SSD300 on ResNet-50 as NVIDIA trains it: 8,732 anchors, 15.4 M parameters at 20 classes.

    Source: NVIDIA DeepLearningExamples, PyTorch/Detection/SSD; HALP prunes it on Pascal VOC.
    """
    trunk = ResNetTrunk(Bottleneck, (3, 4, 6), in_shape[0])
    return _ssd300(trunk, 256, num_classes, in_shape, backbone)


@DETECTORS.register("ssd300_resnet18")
def ssd300_resnet18(num_classes: int, in_shape: InShape, backbone: str | None = None) -> SSD:
    """SSD300 on ResNet-18, as NVIDIA's layout has it.

    Source: NVIDIA DeepLearningExamples, PyTorch/Detection/SSD.
    """
    trunk = ResNetTrunk(Basic, (2, 2, 2), in_shape[0])
    return _ssd300(trunk, 128, num_classes, in_shape, backbone)


@DETECTORS.register("ssd512_resnet50")
def ssd512_resnet50(num_classes: int, in_shape: InShape, backbone: str | None = None) -> SSD:
    """SSD512 on ResNet-50: 24,564 anchors, 22.0 M parameters at 20 classes.

    Source: SSD512-RN50 of NVIDIA's papers on pruning (HALP, SMCP); AdaSAP prunes it as well.
    """
    trunk = ResNetTrunk(Bottleneck, (3, 4, 6), in_shape[0])
    return _ssd512(trunk, num_classes, in_shape, backbone)


@DETECTORS.register("ssd512_resnet18")
def ssd512_resnet18(num_classes: int, in_shape: InShape, backbone: str | None = None) -> SSD:
    """SSD512's maps on ResNet-18."""
    trunk = ResNetTrunk(Basic, (2, 2, 2), in_shape[0])
    return _ssd512(trunk, num_classes, in_shape, backbone)
