"""Images that are decoded once where they are kept, and never mixed up with those of others."""

import numpy as np
import pytest

import voc_folder
from steppe import SteppeError
from steppe.vision.detection.data import load, without_kept


@pytest.fixture
def split(tmp_path):
    return load(f"voc:{voc_folder.write(tmp_path / 'voc')}", say=str).train


def pixels(split):
    return [np.asarray(split.image(row)) for row in range(len(split))]


def test_kept_images_are_decoded_once(split):
    assert split.keep
    first = pixels(split)
    for scene in split:
        scene.image.write_bytes(b"gone")
    assert all(np.array_equal(a, b) for a, b in zip(first, pixels(split), strict=True))
    with pytest.raises(SteppeError, match="can decode"):
        without_kept(split).image(0)


def test_other_images_of_a_split_are_never_its_own(split):
    wanted = pixels(split)
    for keep in (False, True):
        turned = split.of(list(split)[::-1], keep)
        assert all(np.array_equal(a, b) for a, b in zip(wanted[::-1], pixels(turned), strict=True))
    assert len(split.of(split.scenes[:3])) == 3
