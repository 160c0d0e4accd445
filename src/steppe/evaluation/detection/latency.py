"""How long one image takes in a detector: as in any network of images."""

from __future__ import annotations

from steppe.evaluation.detection import DETECTION
from steppe.evaluation.latency import RunLatency

DETECTION.register("latency")(RunLatency)
