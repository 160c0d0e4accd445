"""Deprecated: the former name of `steppe.removal.channel_groups`."""

from __future__ import annotations

import warnings

from steppe.removal.channel_groups import channel_groups as groups_of
from steppe.removal.channel_groups import coupled_channels as all_of

__all__ = ["all_of", "groups_of"]

warnings.warn(
    "steppe.removal.groups is now called steppe.removal.channel_groups",
    DeprecationWarning,
    stacklevel=2,
)
