from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.data.decode import THREADED_BYTES, decode, is_grey

OPTIONS = {"describe": "row {}".format, "grey": False, "size": None}


def encoded(image, kind="png", **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def random(h, w, *channels):
    return np.random.default_rng(h).integers(0, 256, (h, w, *channels), dtype=np.uint8)


@pytest.mark.parametrize("side", [5, 120])  # 120: large enough to be decoded in threads
def test_pixels_and_order_are_kept(png, side):
    arrays = [random(side, side, 3) + np.uint8(i) for i in range(6)]
    blobs = [png(a) for a in arrays]
    assert (len(blobs[0]) > THREADED_BYTES) == (side == 120)
    images = decode(blobs, **OPTIONS)
    assert torch.equal(images, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
    assert images.is_contiguous()


def test_grey_stays_one_channel_or_becomes_three(png):
    array = random(4, 4)
    one = decode([png(array)], **(OPTIONS | {"grey": True}))
    three = decode([png(array)], **OPTIONS)
    assert torch.equal(one[0, 0], torch.from_numpy(array))
    assert torch.equal(three, one.expand(-1, 3, -1, -1))
    assert is_grey(png(array), "here")
    assert not is_grey(png(random(4, 4, 3)), "here")


def test_sixteen_bits_keep_their_upper_eight():
    blob = encoded(Image.fromarray(np.array([[0, 65535], [256, 32768]], dtype=np.uint16)))
    images = decode([blob], **(OPTIONS | {"grey": True}))
    assert images.flatten().tolist() == [0, 255, 1, 128]


def test_size_scales_and_takes_the_middle(png):
    array = np.zeros((4, 8, 3), dtype=np.uint8)
    array[:, 2:6] = 200  # the middle square
    images = decode([png(array), png(array[:, 2:6])], **(OPTIONS | {"size": 4}))
    assert images.shape == (2, 3, 4, 4)
    assert (images == 200).all()


def test_photographs_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    blob = encoded(Image.fromarray(random(4, 6, 3)), "jpeg", exif=exif)
    assert decode([blob], **OPTIONS).shape == (1, 3, 6, 4)


def test_an_undecodable_image_is_named(png, tmp_path):
    good = png(random(4, 4, 3))
    with pytest.raises(SteppeError, match=r"PIL can decode; got row 1"):
        decode([good, b"no image"], **OPTIONS)
    with pytest.raises(SteppeError, match=r"PIL can decode; got row 1"):
        decode([good, good[:40]], **OPTIONS)
    with pytest.raises(SteppeError, match="PIL can decode; got first"):
        is_grey(tmp_path / "absent.png", "first")


def test_different_sizes_and_colour_among_grey_are_refused(png):
    colour = png(random(4, 4, 3))
    with pytest.raises(SteppeError, match=r"one size; got 4 x 5 in row 1, 4 x 4 in row 0"):
        decode([colour, png(random(5, 4, 3))], **OPTIONS)
    with pytest.raises(SteppeError, match=r"all be grey.*coloured image in row 1"):
        decode([png(random(4, 4)), colour], **(OPTIONS | {"grey": True}))
