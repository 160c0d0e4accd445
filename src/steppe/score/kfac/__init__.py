"""Optimal brain surgeon with a Fisher matrix in Kronecker factors: score, factors, compensation."""

from __future__ import annotations

from steppe.score.kfac.kfac import Kfac as Kfac
