"""What is measured: means over seeds, where a record holds them, how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import floor, log10, sqrt
from statistics import fmean, stdev

from steppe.report.record import (
    Record,
    find,
    first,
    noise_of,
    number,
    radii_of,
    robust_accuracy,
    sigmas_of,
)


@dataclass(frozen=True)
class Cell:
    """A mean over seeds.

    Args:
        mean: in the record's own units.
        error: standard error, ``stdev / sqrt(n)`` with n - 1 in the variance; None for n = 1.
        n: how many seeds.

    Example:
        >>> Cell.of([1.0, 3.0])
        Cell(mean=2.0, error=1.0, n=2)
    """

    mean: float
    error: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Cell | None:
        """The mean of what was measured; None where nothing was."""
        known = [v for v in values if v is not None]
        if not known:
            return None
        error = stdev(known) / sqrt(len(known)) if len(known) > 1 else None
        return cls(fmean(known), error, len(known))


@dataclass(frozen=True)
class Column:
    """A quantity: how a record is read for it, and how it is shown.

    Args:
        key: its name in `Row.cells`.
        label: the heading, with units.
        read: record -> number or None.
        scale: what it is multiplied by when shown.
        digits: after the point; None: three significant ones.
        means: what it is, for a reader who does not know the word.
    """

    key: str
    label: str
    read: Callable[[Record], float | None]
    scale: float = 1.0
    digits: int | None = None
    means: str = ""

    @property
    def small(self) -> str:
        """The label within a sentence."""
        return self.label[:1].lower() + self.label[1:]

    def show(self, cell: Cell | None, seeds: int | None) -> str:
        """A cell as text: mean ± standard error; how many seeds, where not all.

        Where all seeds agree there is no ±. Without fixed digits the error has two significant
        ones and the mean as many after the point.
        """
        if cell is None:
            return "–"
        mean, error = self.scale * cell.mean, self.scale * (cell.error or 0.0)
        if error <= 1e-9 * abs(mean):  # rounding of a sum, not a difference between seeds
            text = _plain(mean) if self.digits is None else f"{mean:,.{self.digits}f}"
        else:
            digits = max(0, 1 - floor(log10(error))) if self.digits is None else self.digits
            if digits > 6:
                text = f"{mean:.3g} ± {error:.2g}"
            else:
                text = f"{mean:,.{digits}f} ± {error:,.{digits}f}"
        return text if cell.n == seeds else f"{text} (n = {cell.n})"


def _plain(value: float) -> str:
    """Three significant digits; thousands as digits, not as 1.23e+04."""
    text = f"{value:.3g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e7 else text


def _at(
    key: str,
    label: str,
    paths: str,
    scale: float = 1.0,
    digits: int | None = None,
    means: str = "",
) -> Column:
    """What lies at the first of some dotted paths that has a number."""
    return Column(key, label, lambda record: first(record, *paths.split()), scale, digits, means)


def _points(key: str, label: str, path: str, means: str) -> Column:
    """A difference of fractions, in points: it may be below 0."""

    def read(record: Record) -> float | None:
        value = number(record, path)
        return None if value is None else 100 * value

    return Column(key, label, read, 1.0, 2, means)


def under_noise(sigma: float, name: str) -> Column:
    """The column of the accuracy at one strength of noise.

    Example:
        >>> under_noise(0.1, "0.1").read({"noise": {"0.10": 0.5}})
        0.5
    """
    label = f"Accuracy at noise σ = {name}, %"
    return Column(f"noise {name}", label, lambda record: noise_of(record, sigma), 100, 2)


def attacked(norm: str, eps: str) -> Column:
    """The column of the accuracy under attack in one ball.

    Example:
        >>> attacked("linf", "0.00392156862745098").label
        'Attacked, l∞ 1/255, %'
    """
    return Column(
        f"{norm} {radius(eps)}",
        f"Attacked, {ball(norm, eps)}, %",
        lambda record: robust_accuracy(record, norm, eps),
        100,
        2,
        "images changed on purpose so that the network errs: "
        + ("no pixel value" if norm == "linf" else "no image, as one long arrow,")
        + " moves further than the radius, of values in [0, 1]",
    )


def radius(eps: str) -> str:
    """A radius as it is usually said.

    Example:
        >>> radius("0.0313725490196"), radius("0.5")
        ('8/255', '0.5')
    """
    levels = float(eps) * 255
    whole = abs(levels - round(levels)) < 1e-4 and 0 < levels < 64
    return f"{round(levels)}/255" if whole else f"{float(eps):g}"


def ball(norm: str, eps: str) -> str:
    """A norm and a radius."""
    return f"{norm.replace('linf', 'l∞').replace('l2', 'l₂')} {radius(eps)}"


def families(records: Sequence[Record]) -> list[Column]:
    """The columns that depend on what was tried: noise, radii."""
    return [
        *(under_noise(*pair) for pair in sigmas_of(records)),
        *(attacked(norm, eps) for norm, eps in radii_of(records)),
    ]


def on_images(columns: Sequence[Column], records: Sequence[Record], on: str) -> list[Column]:
    """The same columns; where the measurement was of the first images only, with their number.

    Args:
        columns: those of a measurement; of other ones, noise and new images, they stay.
        records: that are shown.
        on: the measurement, as `steppe evaluate` names it.

    Example:
        >>> runs = [{"limited": {"attacks": 50}}]
        >>> on_images([attacked("l2", "0.5")], runs, "attacks")[0].label
        'Attacked, l₂ 0.5, 50 images, %'
    """
    limits = {int(n) for r in records if (n := number(r, f"limited.{on}")) is not None}
    if not limits:
        return list(columns)
    images = f", {' or '.join(f'{n:,}' for n in sorted(limits))} images"
    return [
        c
        if c.key.split(" ")[0] in ("noise", "shifted", "r_v2")
        else replace(
            c, label=c.label.removesuffix(", %") + images + ", %" * c.label.endswith(", %")
        )
        for c in columns
    ]


def _removed(record: Record) -> float | None:
    before, after = number(record, "dense.parameters"), number(record, "sparse.parameters")
    return 1 - after / before if before and after is not None and after < before else None


def _after(record: Record, path: str) -> float | None:
    """The second of a pair, before and after."""
    pair = find(record, path)
    return number({"after": pair[-1]}, "after") if isinstance(pair, list) and pair else None


def each_class(records: Sequence[Record]) -> list[Column]:
    """A column for each class that detectors look for: its precision at the overlap 0.5.

    Example:
        >>> run = {"sparse": {"classes": {"cell": {"map50": 0.5}}}}
        >>> [(c.label, c.read(run)) for c in each_class([run])]
        [('AP@0.5, cell, %', 0.5)]
    """
    found = [find(r, "sparse.classes") for r in records]
    names = dict.fromkeys(str(name) for own in found if isinstance(own, Mapping) for name in own)
    return [
        Column(f"class {name}", f"AP@0.5, {name}, %", partial(_of_class, name=name), 100, 2)
        for name in names
    ]


def _of_class(record: Record, name: str) -> float | None:
    classes = find(record, "sparse.classes")  # the name may hold a point, so it is no path
    own = classes.get(name) if isinstance(classes, Mapping) else None
    return number(own, "map50") if isinstance(own, Mapping) else None


_BESIDE = "evaluations.clean.beside"
COLUMNS = (
    _at("accuracy", "Accuracy, %", "sparse.accuracy", 100, 2),
    _at(
        "map50",
        "mAP@0.5, %",
        "sparse.map50",
        100,
        2,
        means="mean over the classes of the precision at all recalls; a box is right that has the "
        "class of an object and overlaps it by half",
    ),
    _at(
        "map",
        "mAP@0.5:0.95, %",
        "sparse.map",
        100,
        2,
        means="COCO's mean precision: over ten overlaps that a right box must have, 0.5 to 0.95",
    ),
    _at("loss", "Loss", "sparse.loss"),
    _at(
        "perplexity",
        "Perplexity",
        "sparse.perplexity",
        1,
        2,
        means="how many words the model hesitates between; lower is better",
    ),
    _at(
        "calibration",
        "Calibration error",
        "evaluations.clean.calibration_error",
        1,
        4,
        means="how far the stated confidence lies from the share that is right; 0 is honest",
    ),
    _at("disagree", "Answered otherwise than dense, %", f"{_BESIDE}.disagree", 100, 2),
    _points(
        "worst_drop",
        "Lost in the worst class, points",
        f"{_BESIDE}.worst_drop",
        "accuracy of the class that lost most, below the dense network's",
    ),
    _at(
        "taught",
        "Changed images: the wrong label taught, %",
        "label_noise.given",
        100,
        2,
        means="training images with a wrong label that are answered with it: learnt by heart",
    ),
    _at(
        "righted",
        "Changed images: the right one, %",
        "label_noise.clean",
        100,
        2,
        means="the same images, answered as they were before the label was changed",
    ),
    _at(
        "hessian_top",
        "Top Hessian eigenvalue",
        "evaluations.sharpness.top_eigenvalue flatness.hessian_top",
        means="curvature of the loss in its steepest direction; lower is flatter",
    ),
    _at(
        "trace",
        "Hessian trace",
        "evaluations.sharpness.trace.mean",
        means="curvature of the loss, summed over all directions",
    ),
    _at(
        "sharpness",
        "Sharpness",
        "evaluations.sharpness.ball flatness.sharpness",
        means="the largest rise of the loss when the weights move a given length; lower is flatter",
    ),
    _at(
        "average",
        "Average sharpness",
        "evaluations.sharpness.average.mean",
        means="the mean rise in random directions instead of the worst one",
    ),
    _at(
        "adaptive",
        "Adaptive sharpness",
        "evaluations.sharpness.adaptive",
        means="the largest rise when each weight may move in proportion to its size",
    ),
    _at(
        "distance",
        "Projection distance",
        "projection_distance",
        means="how far the last cut moved the weights, as a share of their length",
    ),
    _at("reached", "Zeros reached, %", "sparsity_reached", 100, 2),
    Column(
        "removed",
        "Parameters removed, %",
        _removed,
        100,
        2,
        "parameters of channels that are cut out, or that steppe remove will take out",
    ),
    Column(
        "left",
        "Parameters left",
        lambda record: _after(record, "removed.parameters"),
        1,
        0,
        "those of the network without channels that are zero",
    ),
    _at("nonzero", "Nonzero weights", "sparse.nonzero", 1, 0),
    _at(
        "flops",
        "Multiply-adds, million",
        "sparse.flops",
        1e-6,
        1,
        means="of one input, in the network without channels that are zero",
    ),
    _at("bytes", "Size, kB", "sparse.bytes", 1e-3, 0),
    _at(
        "packed",
        "Size packed, kB",
        "sparse.bytes_packed",
        1e-3,
        0,
        means="size on disk with one bit for each weight and the kept ones stored",
    ),
    _at("seconds", "Training, s", "seconds", 1, 1),
    _at("memory", "Peak memory, MB", "peak_memory_bytes", 1e-6, 0),
)
