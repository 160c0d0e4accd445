"""Deprecated: the former name of `steppe.evaluation`."""

from __future__ import annotations

import warnings

from steppe.evaluation import EVALUATIONS, Evaluation, ensure

__all__ = ["EVALUATIONS", "Evaluation", "ensure"]

warnings.warn(
    "steppe.cli.evaluations is now called steppe.evaluation", DeprecationWarning, stacklevel=2
)
