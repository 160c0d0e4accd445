"""Weights that are pulled towards a sparse copy of themselves."""

from __future__ import annotations

from steppe.coupling.admm.admm import Admm as Admm
