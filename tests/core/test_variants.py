"""The names that the variants of ImageNet-V2 have in the wild."""

import pytest

from steppe.core.variants import in_order, variant_of


@pytest.mark.parametrize(
    ("folder", "variant"),
    [
        ("imagenetv2-matched-frequency-format-val", "matched-frequency"),
        ("imagenetv2-threshold0.7-format-val", "threshold-0.7"),
        ("threshold-0.7", "threshold-0.7"),
        ("ImageNetV2_topimages", "top-images"),
        ("val", "val"),
    ],
)
def test_variants_by_their_folders(folder, variant):
    assert variant_of(folder) == variant


def test_the_papers_order_then_others():
    assert in_order(["z", "a", "top-images", "matched-frequency"]) == [
        "matched-frequency", "top-images", "a", "z",
    ]  # fmt: skip
