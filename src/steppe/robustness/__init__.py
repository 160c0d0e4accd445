"""Measurements of sharpness and robustness."""

from steppe.robustness.hessian import HessianTop, hessian_top
from steppe.robustness.noise import accuracy_under_noise, gaussian_noise
from steppe.robustness.sharpness import ball_sharpness, one_step_sharpness

__all__ = [
    "HessianTop",
    "accuracy_under_noise",
    "ball_sharpness",
    "gaussian_noise",
    "hessian_top",
    "one_step_sharpness",
]
