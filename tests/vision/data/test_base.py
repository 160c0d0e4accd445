import torch

from steppe.vision.data.base import ImageData, Split


def test_a_split_moves_as_a_whole_and_a_dataset_knows_its_shape():
    split = Split(torch.zeros(4, 3, 5, 6, dtype=torch.uint8), torch.arange(4))
    moved = split.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert len(moved) == 4
    data = ImageData("d", split, None, split, 4, (0.5,) * 3, (0.5,) * 3)
    assert data.shape == (3, 5, 6)
