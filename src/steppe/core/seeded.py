"""The generators that everybody shares, set for a while: those of Python, numpy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators for what is called inside; afterwards they are as they were.

    Of torch it is the CPU's generator alone: those of GPUs are neither set nor put back.

    Args:
        seed: 0 or more; the lower 32 bits are those of numpy.

    Example:
        >>> with seeded(3): first = random.random(), np.random.rand(), torch.rand(()).item()
        >>> with seeded(3): first == (random.random(), np.random.rand(), torch.rand(()).item())
        True
    """
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set those of GPUs, too
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
