"""What accuracies under corruption come to: means over named kinds, R_C, corruption error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from steppe.robustness.corruptions import CORRUPTIONS, benchmark

Accuracies = Mapping[str, Mapping[str, float]]
"""Corruption -> severity -> the share of images answered right."""


def relative_robustness(accuracy: Accuracies, clean: float) -> dict[str, Any]:
    """Means over the corruptions, and the share of the clean accuracy that they are.

    ``R_C = acc_C / acc_val``, acc_C the mean over kinds and severities. The papers take the 15
    kinds of ImageNet-C, or with its extra ones 19: both are named, and neither is there where
    one of its kinds was not run.

    Args:
        accuracy: of each corruption at the same severities.
        clean: accuracy on the uncorrupted images.

    Returns:
        ``kinds`` (how many were run), ``severities``, ``extra`` (those of the names that
        ImageNet-C keeps apart), ``mean_run`` over all that was run; ``mean_15`` and ``r_c_15``,
        ``mean_19`` and ``r_c_19`` where all of these kinds were run; ``mean_extra`` over the 4.
        R_C is None where nothing is right on the uncorrupted images.

    Source: R_C: AdaSAP; the kinds: Hendrycks & Dietterich 2019.

    Example:
        >>> relative_robustness({"fog": {"3": 0.5}, "snow": {"3": 0.7}}, 0.8)["mean_run"]
        0.6
    """
    means: dict[str, Any] = {
        "kinds": len(accuracy),
        "severities": [int(severity) for severity in next(iter(accuracy.values()))],
        "extra": [name for name in accuracy if CORRUPTIONS[name].extra],
        "mean_run": _mean(accuracy, accuracy),
    }
    for suffix, names in _complete(accuracy).items():
        means[f"mean_{suffix}"] = _mean(accuracy, names)
        means[f"r_c_{suffix}"] = _ratio(means[f"mean_{suffix}"], clean)
    extra = benchmark(extra=True)
    if extra <= set(accuracy):
        means["mean_extra"] = _mean(accuracy, extra)
    return means


def r_c_text(r_c: float | None) -> str:
    """R_C in words, of which there may be none.

    Example:
        >>> r_c_text(0.75), r_c_text(None)
        ('R_C 0.750', 'no R_C, as nothing is right on the clean ones')
    """
    return "no R_C, as nothing is right on the clean ones" if r_c is None else f"R_C {r_c:.3f}"


def corruption_error(
    accuracy: Accuracies, clean: float, reference: Accuracies, reference_clean: float
) -> dict[str, Any]:
    """Errors under corruption as shares of a reference network's.

    ``CE_c = sum_s E_sc / sum_s E'_sc`` and, of what the corruption adds to the clean error,
    ``relative CE_c = sum_s (E_sc - E_clean) / sum_s (E'_sc - E'_clean)``; E = 1 - accuracy, E' the
    reference's. mCE is the mean over the kinds: 1 is as good as the reference, less is better
    (the paper prints 100 times that, beside AlexNet).

    Args:
        accuracy: of the network, of each corruption at the same severities.
        clean: its accuracy on the uncorrupted images.
        reference: of the reference network, the same corruptions and severities.
        reference_clean: its accuracy on the uncorrupted images.

    Returns:
        ``ce`` and ``relative_ce`` (name -> number, None where the reference errs no more on the
        corrupted images than that leaves something to divide by), and the means ``mce_15``,
        ``mce_19``, ``relative_mce_15``, ``relative_mce_19`` where all of these kinds were run,
        ``mce_run``, ``relative_mce_run`` over what was run: None where one of them is.

    Source: Hendrycks & Dietterich 2019, section 4.

    Example:
        >>> corruption_error({"fog": {"3": 0.5}}, 0.9, {"fog": {"3": 0.6}}, 0.8)["ce"]
        {'fog': 1.25}
    """
    ce: dict[str, float | None] = {}
    relative: dict[str, float | None] = {}
    for name, cells in accuracy.items():
        own, theirs = list(cells.values()), [reference[name][severity] for severity in cells]
        ce[name] = _ratio(sum(1 - a for a in own), sum(1 - a for a in theirs))
        lost = sum(reference_clean - a for a in theirs)
        relative[name] = _ratio(sum(clean - a for a in own), lost)
    errors: dict[str, Any] = {"ce": ce, "relative_ce": relative}
    for suffix, names in {**_complete(accuracy), "run": set(accuracy)}.items():
        errors[f"mce_{suffix}"] = _mean_of(ce, names)
        errors[f"relative_mce_{suffix}"] = _mean_of(relative, names)
    return errors


def _complete(names: Iterable[str]) -> dict[str, set[str]]:
    """ "15" and "19" -> their kinds, where all of them are among the names."""
    common, every = benchmark(extra=False), benchmark(extra=False) | benchmark(extra=True)
    sets = {str(len(kinds)): set(kinds) for kinds in (common, every)}
    return {count: kinds for count, kinds in sets.items() if kinds <= set(names)}


def _mean(accuracy: Accuracies, names: Iterable[str]) -> float:
    chosen = set(names)
    return fmean(v for name, cells in accuracy.items() if name in chosen for v in cells.values())


def _ratio(part: float, whole: float) -> float | None:
    # sums of shares: what is below a millionth of an image is rounding
    return part / whole if whole > 1e-12 else None


def _mean_of(errors: Mapping[str, float | None], names: set[str]) -> float | None:
    values = [error for name, error in errors.items() if name in names]
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
