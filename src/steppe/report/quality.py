"""What says how good a network is, and how a report speaks of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A measure by which the runs of a report are compared.

    Args:
        key: its column, and its key in a record's ``dense`` and ``sparse``.
        name: within a sentence.
        title: at the start of one, and at an axis.
        best: what the network is that has the best value.
        alone: what follows a value that nothing is compared with; with ``{}`` for the value.
        as_good: beside another network; what follows is its name.
        better: beside another network that is worse; what follows is its name.
        worse: beside the dense one.
        keeps: what a network keeps that is as good as the dense one.
        most: what is true of the network that is best on changed images.
        share: whether it is a share, shown in %; else lower is better.
        changed: what it is called on corrupted images, and for short.
        clean: where a measurement on corrupted images has it for the images as they were.
    """

    key: str
    name: str
    title: str
    best: str
    alone: str
    as_good: str
    better: str
    worse: str
    keeps: str = ""
    most: str = ""
    share: bool = False
    changed: str = ""
    clean: str = ""


ACCURACY = Quality(
    key="accuracy",
    name="accuracy",
    title="Accuracy",
    best="most accurate",
    alone="{} of the answers are right",
    as_good="as accurate as",
    better="more accurate than",
    worse="below the dense network",
    keeps="the dense accuracy",
    most="Most answers are right",
    share=True,
    changed="Corrupted",
    clean="clean",
)
PRECISION = Quality(
    key="map50",
    name="mAP@0.5",
    title="mAP@0.5",
    best="best (mAP@0.5)",
    alone="mAP@0.5 {}",
    as_good="as precise as",
    better="more precise than",
    worse="below the dense network in mAP@0.5",
    keeps="the dense mAP@0.5",
    most="Precision is highest",
    share=True,
    changed="mAP_C",
    clean="clean.map50",
)
PERPLEXITY = Quality(
    key="perplexity",
    name="perplexity",
    title="Perplexity",
    best="best (perplexity)",
    alone="perplexity {}",
    as_good="as good in perplexity as",
    better="better in perplexity than",
    worse="worse than the dense network in perplexity",
)
LOSS = Quality(
    key="loss",
    name="loss",
    title="Loss",
    best="best (loss)",
    alone="loss {}",
    as_good="as good in loss as",
    better="better in loss than",
    worse="worse than the dense network in loss",
)
QUALITIES = (ACCURACY, PRECISION, PERPLEXITY, LOSS)
"""A report compares by the first of them that its runs have."""


def share_among(keys: Collection[str]) -> Quality:
    """The share that is among some columns: what networks have right, or how precise they are.

    Args:
        keys: of columns.

    Returns:
        The first; the accuracy where there is none.

    Example:
        >>> share_among(["map50", "loss"]).title
        'mAP@0.5'
    """
    return next((q for q in QUALITIES if q.share and q.key in keys), ACCURACY)
