"""What ``steppe evaluate`` can measure of a detector: one file each, found by the registry."""

from __future__ import annotations

from steppe.core.registry import Registry
from steppe.evaluation.base import Evaluation

DETECTION: Registry[type[Evaluation]] = Registry(
    "measurement of detectors", "steppe.evaluation.detection"
)
