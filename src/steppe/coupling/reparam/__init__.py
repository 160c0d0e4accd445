"""Weights that are a function of other tensors, which are trained in their place."""

from __future__ import annotations

from steppe.coupling.reparam.parametrized import Parametrized as Parametrized
from steppe.coupling.reparam.reparam import Reparam as Reparam
