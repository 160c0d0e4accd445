"""SSD300 and SSD512 on ResNets beside a table of the published layers, counted by hand."""

import pytest
import torch
from safetensors.torch import save_file

from steppe import SteppeError
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.cost.flops import Flops
from steppe.vision.detection.models import build
from steppe.vision.detection.models.resnet_trunk import Basic, ResNetTrunk

DEPTHS = ((64, 3), (128, 4), (256, 6))


def trunk(size):
    """ResNet-50 to its fourth stage, the last of stride 1: (in, out, kernel, output side)."""
    side = -(-size // 2)
    layers = [(3, 64, 7, side)]
    side, channels = -(-side // 2), 64
    for stage, (width, depth) in enumerate(DEPTHS):
        for block in range(depth):
            stride = 2 if stage == 1 and block == 0 else 1
            after = -(-side // stride)
            layers += [(channels, width, 1, side), (width, width, 3, after)]
            layers.append((width, 4 * width, 1, after))
            if block == 0:
                layers.append((channels, 4 * width, 1, after))
            side, channels = after, 4 * width
    return layers, side


def counted(size, extras, each, classes):
    """(parameters, multiply-adds, anchors); extras are (in, middle, out, kernels, sides)."""
    layers, side = trunk(size)
    normed = list(layers)
    maps = [(1024, side)]
    for c_in, middle, c_out, (first, second), (wide, narrow) in extras:
        normed += [(c_in, middle, first, wide), (middle, c_out, second, narrow)]
        maps.append((c_out, narrow))
    heads = [
        (channels, n * outputs, 3, own)
        for (channels, own), n in zip(maps, each, strict=True)
        for outputs in (4, classes + 1)
    ]
    weights = sum(i * o * k * k for i, o, k, _ in [*normed, *heads])
    parameters = weights + sum(2 * o for _, o, _, _ in normed) + sum(o for _, o, _, _ in heads)
    adds = sum(i * o * k * k * s * s for i, o, k, s in [*normed, *heads])
    return parameters, adds, sum(n * own * own for n, (_, own) in zip(each, maps, strict=True))


# NVIDIA's SSD300: DeepLearningExamples, PyTorch/Detection/SSD/ssd/model.py
NVIDIA_300 = [
    (1024, 256, 512, (1, 3), (38, 19)),
    (512, 256, 512, (1, 3), (19, 10)),
    (512, 128, 256, (1, 3), (10, 5)),
    (256, 128, 256, (1, 3), (5, 3)),
    (256, 128, 256, (1, 3), (3, 1)),
]
# SSD512-RN50 of the papers on pruning: NVlabs/SMCP, smcp/detection/models/ssd.py
NVIDIA_512 = [
    (1024, 512, 512, (3, 3), (64, 32)),
    (512, 256, 512, (1, 3), (32, 16)),
    (512, 128, 256, (1, 3), (16, 8)),
    (256, 128, 256, (1, 3), (8, 4)),
    (256, 128, 256, (1, 3), (4, 2)),
    (256, 128, 256, (1, 4), (2, 1)),
]


@pytest.mark.parametrize(
    ("name", "size", "extras", "each", "classes", "known"),
    [
        ("ssd300_resnet50", 300, NVIDIA_300, (4, 6, 6, 6, 4, 4), 20, 15_428_142),
        ("ssd300_resnet50", 300, NVIDIA_300, (4, 6, 6, 6, 4, 4), 80, 22_894_902),
        ("ssd512_resnet50", 512, NVIDIA_512, (4, 6, 6, 6, 6, 4, 4), 20, 21_968_324),
    ],
)
def test_parameters_multiply_adds_and_anchors_are_the_published_networks(
    name, size, extras, each, classes, known
):
    model = build(name, classes, (3, size, size)).to("meta")
    parameters, adds, anchors = counted(size, extras, each, classes)
    assert sum(p.numel() for p in model.parameters()) == parameters == known
    flops = Flops.of(model, torch.zeros(1, 3, size, size, device="meta"), [])
    assert flops.total({}) == adds
    assert len(model.reading.anchors) == anchors == {300: 8732, 512: 24564}[size]


def test_the_groups_of_a_whole_detector_are_found_and_the_heads_keep_their_outputs():
    model = build("ssd300_resnet18", 3, (3, 288, 288)).eval()
    coupled = coupled_channels(model, torch.zeros(1, 3, 288, 288), prove=False)
    outputs = {s.name for g in coupled.groups for s in g.slices if s.role == "output"}
    convolutions = {n for n, p in model.named_parameters() if p.ndim == 4}
    heads = {n for n in convolutions if n.startswith(("offsets.", "classes."))}
    assert convolutions - outputs == heads


def test_the_weights_of_a_classifier_are_the_trunks(tmp_path):
    source = ResNetTrunk(Basic, (2, 2, 2), 3)
    file = tmp_path / "resnet18.safetensors"
    above = {"fc.weight": torch.zeros(2, 2), "layer4.0.conv1.weight": torch.zeros(1)}
    save_file({**source.state_dict(), **above}, file)
    model = build("ssd300_resnet18", 1, (3, 300, 300), backbone=str(file))
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.trunk.state_dict()[name], tensor)
    with pytest.raises(SteppeError, match=r"conv1\.weight"):
        build("ssd300_resnet50", 1, (3, 300, 300), backbone=str(file))
