"""The three variants of ImageNet-V2, under the names that their papers give them."""

from __future__ import annotations

import re

VARIANTS = ("matched-frequency", "threshold-0.7", "top-images")
"""In the order of the paper; the first is the one that R_V2 usually means."""


def variant_of(name: str) -> str:
    """The variant that a folder of that name holds; the name itself where it is none of them.

    Source: Recht et al. 2019; the folders as released are imagenetv2-matched-frequency-format-val
    and so on, and others write them without dashes or points.

    Example:
        >>> variant_of("imagenetv2-threshold0.7-format-val"), variant_of("mine")
        ('threshold-0.7', 'mine')
    """
    plain = _letters(name)
    return next((variant for variant in VARIANTS if _letters(variant) in plain), name)


def in_order(variants: list[str]) -> list[str]:
    """The three first, in the paper's order; then others by name.

    Example:
        >>> in_order(["mine", "top-images", "matched-frequency"])
        ['matched-frequency', 'top-images', 'mine']
    """
    known = [variant for variant in VARIANTS if variant in variants]
    return known + sorted(variant for variant in variants if variant not in VARIANTS)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
