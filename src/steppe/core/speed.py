"""Whether one network is faster than another: times in turns, bounds, and the one claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import comb, isfinite
from statistics import median
from typing import Any

LEAST = 1.05
"""Times as fast that the lower bound must be above, for a claim."""
DENSE_KERNELS = "zeros in dense tensors are multiplied like other numbers"
"""Why zeros alone are no reason to be faster."""
_DOUBT = 0.005  # chance that the true median lies beyond either bound


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How many times as fast as the dense network another one is, measured in paired turns.

    Args:
        dense_ms: median of the dense network, milliseconds.
        sparse_ms: of the other.
        ratio: median over the turns of dense / other.
        low: lower bound of that median, 99.5 % sure.
        high: upper bound, as sure.
        turns: how many pairs were timed.
        reason: why the other may be faster; "" where there is none.
    """

    dense_ms: float
    sparse_ms: float
    ratio: float
    low: float
    high: float
    turns: int
    reason: str = ""

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]], reason: str = "") -> Speed:
        """Of times taken in turns.

        The bounds are order statistics of the ratios: of n, the k-th least and the k-th largest,
        with the largest k for which fewer than k of n fair coins show heads with a chance of at
        most 0.5 %. They hold for any distribution of the noise, as long as it does not favour one
        of the two; with fewer than 8 turns nothing is bounded.

        Args:
            pairs: (dense, other) milliseconds.
            reason: see `Speed`.

        Example:
            >>> speed = Speed.of([(2.0, 1.0), (2.2, 1.0), (1.9, 1.0)] * 5, "channels are removed")
            >>> speed.ratio, speed.low, speed.claimed
            (2.0, 1.9, True)
        """
        ratios = sorted(dense / max(other, 1e-9) for dense, other in pairs)
        count = len(ratios)
        tail, rank = 0.0, 0
        while rank < count and (tail := tail + comb(count, rank) / 2**count) <= _DOUBT:
            rank += 1
        return cls(
            dense_ms=median(dense for dense, _ in pairs),
            sparse_ms=median(other for _, other in pairs),
            ratio=median(ratios),
            low=ratios[rank - 1] if rank else 0.0,
            high=ratios[count - rank] if rank else 1e9,
            turns=count,
            reason=reason,
        )

    @classmethod
    def read(cls, record: Any) -> Speed | None:
        """What a record holds, or None."""
        if not isinstance(record, Mapping):
            return None
        numbers = {f.name: record.get(f.name) for f in fields(cls) if f.name != "reason"}
        if not all(isinstance(v, int | float) and isfinite(v) for v in numbers.values()):
            return None
        known: dict[str, Any] = {**numbers, "reason": str(record.get("reason") or "")}
        return cls(**known)

    @property
    def claimed(self) -> bool:
        """Whether it is faster: the lower bound is above 1.05 and there is a reason."""
        return bool(self.reason) and self.low > LEAST

    def record(self) -> dict[str, Any]:
        """Plain values, with the claim."""
        return asdict(self) | {"claimed": self.claimed}

    def sentence(self, what: str) -> str:
        """The claim, or why there is none; the start of it is ``what`` was computed.

        Example:
            >>> Speed.of([(1.0, 1.0)] * 9).sentence("one image")
            'one image is not faster: zeros in dense tensors are multiplied like other numbers'
        """
        if not self.reason:
            return f"{what} is not faster: {DENSE_KERNELS}"
        bounds = f"{self.low:.2f} to {self.high:.2f} in {self.turns} paired turns"
        if self.turns and self.high > 1e8:
            bounds = f"too few turns, {self.turns}, for bounds"
        if self.claimed:
            return f"{what} is {self.ratio:.2f}x as fast as dense ({bounds}), as {self.reason}"
        return f"{what} is not surely faster, though {self.reason} ({self.ratio:.2f}x; {bounds})"
