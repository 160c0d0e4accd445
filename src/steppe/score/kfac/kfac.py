"""Optimal brain surgeon with the Fisher matrix in Kronecker factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Score
from steppe.score.kfac.compensation import compensated
from steppe.score.kfac.kronecker import KfacColumns, KfacMean, KfacRows


@Score.registry.register("kfac")
@dataclass(frozen=True, kw_only=True)
class Kfac(Score):
    """w_ij / sqrt([G^-1]_ii [A^-1]_jj), the layer's Fisher matrix being A (x) G.

    Half its square, w_ij^2 / (2 [G^-1]_ii [A^-1]_jj), is what the loss rises by when w_ij goes and
    all other weights of its layer, the bias among them, make up for it as well as they can. That
    is comparable between layers, so budget ``pooled`` finds each layer's share by itself. A and G
    are means over inputs and over gradients at outputs (see `kronecker.py` beside this file): the
    empirical Fisher matrix, positions of a convolution in KFC's convention. On a gradual schedule
    what is gone already still counts among the others.

    Damping is Tikhonov's, F + lam I with lam = ``damping`` times the mean eigenvalue of the whole
    network's F, shared out by K-FAC's factor pi: A + pi sqrt(lam) I and G + sqrt(lam) / pi I with
    pi^2 = (tr A / dim A) / (tr G / dim G). Scaling the loss changes no rank. lam is one for all
    layers, as with weight decay: a share of each layer's own would let layers of little curvature
    go whole. Large damping ranks as magnitude does.

    Each time it is asked for, each layer costs the eigenvalues of two matrices, columns^3 + rows^3;
    each step costs their sums, positions * (columns^2 + rows^2). So choose masks seldom.

    Args:
        damping: above 0; the smaller, the closer to OBS, which believes that directions that no
            sample showed cost nothing.

    Source: Zeng & Urtasun 2018 (MLPrune); Hassibi & Stork 1993 (OBS); Martens & Grosse 2015,
    section 6.3 (pi).

    Example:
        >>> stats = {"kfac_rows": torch.eye(2)[None] / 4, "kfac_columns": torch.eye(3)[None]}
        >>> stats["kfac_mean"] = torch.ones(1) / 2
        >>> Kfac(damping=1e-12).score(torch.ones(2, 3), stats, "w")[0]
        tensor([0.5000, 0.5000, 0.5000])
    """

    damping: float = 0.1
    name = "kfac"
    needs = (KfacRows.name, KfacColumns.name, KfacMean.name)
    compensates = True

    def __post_init__(self) -> None:
        if not 0.0 < self.damping < float("inf"):
            raise SteppeError(
                "score kfac needs a damping above 0, of the mean eigenvalue",
                got=self.damping,
                consequence="factors of fewer samples than columns have no inverse",
                way_out="damping 0.1",
            )

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        """As in `Score`.

        Args:
            weight: ``[d, ...]`` with any further dimensions, c entries together.
            stats: ``kfac_rows`` ``[groups, d / groups, d / groups]`` and ``kfac_columns``
                ``[groups, c, c]``, the one of the inputs one larger where there is a bias;
                ``kfac_mean`` ``[1]``, the root of the mean eigenvalue of the network's F.
            key: the weight's name.

        Raises:
            SteppeError: a factor is not finite.
        """
        rows, columns, damps = self._factors(stats, key)
        groups = len(rows)
        first = stiffness(rows, damps[0])[:, : len(weight) // groups]
        second = stiffness(columns, damps[1])[:, : weight[0].numel()]
        both = first[:, :, None] * second[:, None, :]
        return (weight * both.reshape(weight.shape)).to(weight.dtype)

    def compensate(
        self, weight: Tensor, keep: Tensor, stats: Mapping[str, Tensor], key: str
    ) -> Tensor:
        """As in `Score`: least rise of the loss under the damped A (x) G, the bias as it is.

        Args:
            weight, keep: as of `score`.
            stats, key: as of `score`.
        """
        rows, columns, damps = self._factors(stats, key)
        shape = (len(rows), len(weight) // len(rows), -1)
        full = _full(weight).reshape(shape)
        both = [
            m[:, :n, :n] + damp[:, None, None] * torch.eye(n, dtype=m.dtype, device=m.device)
            for m, damp, n in zip((rows, columns), damps, full.shape[1:], strict=True)
        ]
        full = full.to(both[0].dtype)
        updated = compensated(full, keep.reshape(shape), both[0], both[1])
        return updated.reshape(weight.shape).to(weight.dtype)

    def _factors(
        self, stats: Mapping[str, Tensor], key: str
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The factors of the weight's first and other dimensions, and the damping of each."""
        rows, columns, mean = (_full(stats[need]) for need in self.needs)
        if not bool(rows.isfinite().all() & columns.isfinite().all()):
            raise SteppeError(
                "score kfac needs finite inputs and gradients",
                got=f"inf or nan at {key}",
                way_out="a smaller learning rate, or a GradScaler in half precision",
            )
        root = self.damping**0.5 * mean.clamp_min(torch.finfo(mean.dtype).tiny)
        means = [m.diagonal(dim1=-2, dim2=-1).mean(-1) for m in (rows, columns)]
        # a layer without gradients has no pi, and only lam
        pi = torch.where((means[0] > 0) & (means[1] > 0), means[0] / means[1], 1.0).sqrt()
        return rows, columns, (root * pi, root / pi)


def _full(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def stiffness(factor: Tensor, damp: Tensor) -> Tensor:
    """1 / sqrt([(M + e I)^-1]_ii).

    Args:
        factor: M, symmetric and positive semi-definite but for rounding, ``[groups, n, n]``.
        damp: e above 0, ``[groups]``.

    Returns:
        ``[groups, n]``, positive.

    Example:
        >>> stiffness(3 * torch.eye(2)[None], torch.ones(1))
        tensor([[2., 2.]])
    """
    values, vectors = torch.linalg.eigh(factor)
    values = values.clamp_min(0.0)  # rounding puts some of the zeros below
    inverse: Tensor = (vectors.square() / (values + damp[:, None])[:, None, :]).sum(-1)
    return inverse.rsqrt()
