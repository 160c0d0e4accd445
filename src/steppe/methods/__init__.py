"""The published methods, one file each; each takes its paper's options and gives a `Method`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from steppe.core.errors import unknown
from steppe.method import Method
from steppe.methods.abcpruner import abcpruner
from steppe.methods.adasap import adasap
from steppe.methods.admm import admm
from steppe.methods.alps import alps
from steppe.methods.dense import dense
from steppe.methods.depth import depth
from steppe.methods.eagleeye import eagleeye
from steppe.methods.elsa import elsa
from steppe.methods.flap import flap
from steppe.methods.gmp import gmp
from steppe.methods.greg1 import greg1
from steppe.methods.greg2 import greg2
from steppe.methods.halp import halp
from steppe.methods.hidden import hidden
from steppe.methods.iht import iht
from steppe.methods.language_form import for_language
from steppe.methods.lasso import lasso
from steppe.methods.lrr import lrr
from steppe.methods.lth import lth
from steppe.methods.magnitude import magnitude
from steppe.methods.mlprune import mlprune
from steppe.methods.options import budget_of
from steppe.methods.pbw import pbw
from steppe.methods.pilot import pilot
from steppe.methods.polarreg import polarreg
from steppe.methods.reap import reap
from steppe.methods.refinement import with_swaps
from steppe.methods.registry import METHODS, PublishedMethod, display_of, published
from steppe.methods.safe import safe
from steppe.methods.safe_plus import safe_plus
from steppe.methods.slim import slim
from steppe.methods.smcp import smcp
from steppe.methods.soft_threshold import soft_threshold
from steppe.methods.sparsegpt import sparsegpt
from steppe.methods.spred import spred
from steppe.methods.taylor import taylor
from steppe.methods.vbp import vbp
from steppe.methods.wanda import wanda

__all__ = [
    "METHODS",
    "PublishedMethod",
    "abcpruner",
    "adasap",
    "admm",
    "alps",
    "budget_of",
    "dense",
    "depth",
    "display_of",
    "eagleeye",
    "elsa",
    "flap",
    "for_language",
    "gmp",
    "greg1",
    "greg2",
    "halp",
    "hidden",
    "iht",
    "lasso",
    "lrr",
    "lth",
    "magnitude",
    "make",
    "mlprune",
    "pbw",
    "pilot",
    "polarreg",
    "published",
    "reap",
    "safe",
    "safe_plus",
    "slim",
    "smcp",
    "soft_threshold",
    "sparsegpt",
    "spred",
    "taylor",
    "vbp",
    "wanda",
    "with_swaps",
]


def make(name: str, **options: Any) -> Method:
    """A method by its name and options.

    Raises:
        SteppeError: the name or an option is not known, or of another type.

    Example:
        >>> make("safe", sparsity=0.9).perturb.rho
        0.1
    """
    return METHODS[name](**options)


if not TYPE_CHECKING:  # a type checker shall see a misspelt method

    def __getattr__(name: str) -> Any:
        """A method of an outside package, or a former name."""
        if name == "amount":
            text = "steppe.methods.amount is now called budget_of"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return budget_of
        if name.startswith("_") or name not in METHODS:
            raise AttributeError(str(unknown("method", name, METHODS)))
        return METHODS[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *METHODS})
