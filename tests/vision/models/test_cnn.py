import pytest
import torch
from torch.nn.functional import cross_entropy

from steppe.core.errors import SteppeError
from steppe.vision.data import load
from steppe.vision.loader import Loader
from steppe.vision.models import build


def test_names_and_size_are_stable():
    model = build("small-cnn", 10, (1, 8, 8))
    names = [name for name, _ in model.named_children()]
    assert names == ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "linear"]
    assert sum(p.numel() for p in model.parameters()) == 24_058


def test_it_learns_the_digits_in_a_few_epochs():
    torch.manual_seed(0)
    data = load("digits")
    model = build("small-cnn", data.num_classes, data.shape)
    train = Loader.of(data, "train", 64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6 * len(train))
    for epoch in range(6):
        for x, y in train.epoch(epoch):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in Loader.of(data, "test", 500))
    assert right / 500 > 0.95


def test_images_must_survive_two_poolings():
    with pytest.raises(SteppeError, match=r"at least 4 x 4; got \(1, 3, 3\)"):
        build("small-cnn", 10, (1, 3, 3))


def test_channels_must_be_three():
    with pytest.raises(SteppeError, match="three positive channel counts"):
        build("small-cnn", 10, (1, 8, 8), channels=(8, 16))
