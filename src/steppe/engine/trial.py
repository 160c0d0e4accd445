"""Deprecated: the former name of `steppe.engine.step.candidate_evaluation`."""

from __future__ import annotations

import warnings

from steppe.engine.step.candidate_evaluation import candidate_evaluator as make_trial

__all__ = ["make_trial"]

warnings.warn(
    "steppe.engine.trial is now called steppe.engine.step.candidate_evaluation",
    DeprecationWarning,
    stacklevel=2,
)
