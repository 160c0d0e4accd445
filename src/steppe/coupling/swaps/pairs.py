"""The best pair of each row, of all its pairs, without looking at most of them."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

_FIRST = 8  # candidates of each kind that are looked at first
_WIDER = 4  # how many times more where they do not suffice
_KNOTS = 8  # of the lower bound, per row
_ABOVE = 1.0 + 1e-4  # bounds are rounded too
TABLE = 1 << 24  # pairs in memory at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offers:
    """What the weights of some rows offer: exchanging p for q changes a row's error by

    ``prune_p + restore_q - 2 u_p u_q G_pq``.

    Args:
        prune: ``[rows, columns]``, infinity where nothing is kept.
        restore: ``[rows, columns]``, infinity where nothing may come back.
        u: ``[rows, columns]``, the weight that goes or comes.
    """

    prune: Tensor
    restore: Tensor
    u: Tensor

    def of(self, rows: Tensor) -> Offers:
        """Those of some rows."""
        return Offers(prune=self.prune[rows], restore=self.restore[rows], u=self.u[rows])


Best = tuple[Tensor, Tensor, Tensor]
"""The change ``[rows]``, and the columns of p and q ``[rows]``; infinity where no pair is left."""


class Pairs(Protocol):
    """The pairs of a row that may be exchanged."""

    def best(self, offers: Offers) -> Best:
        """The pair of each row that lowers its error most; of equal ones any."""
        ...


class GroupPairs:
    """Pairs within groups of neighbouring columns: all are looked at.

    Args:
        gram: G ``[columns, columns]``.
        size: columns of a group, M of N:M.
    """

    def __init__(self, gram: Tensor, size: int) -> None:
        self._size = size
        groups = gram.unflatten(0, (-1, size)).unflatten(2, (-1, size))
        self._twice = 2.0 * groups.diagonal(dim1=0, dim2=2).movedim(2, 0)  # [groups, M, M]

    def best(self, offers: Offers) -> Best:
        prune, restore, u = (
            x.unflatten(1, (-1, self._size)) for x in (offers.prune, offers.restore, offers.u)
        )
        table = (u[..., :, None] * u[..., None, :]).mul_(self._twice)
        table = (restore[..., None, :] - table).add_(prune[..., :, None]).flatten(1)
        change, place = table.min(1)
        group, pair = place // self._size**2, place % self._size**2
        first = group * self._size
        return change, first + pair // self._size, first + pair % self._size


class RowPairs:
    """All pairs of a row, most of them by a lower bound.

    With t_j = |u_j| sqrt(G_jj) and r_j the largest |G_jk| / sqrt(G_jj G_kk) of column j,
    ``|u_p u_q G_pq| <= r_p t_p t_q``. So no pair of p is below

        ``prune_p + f(2 r_p t_p),  f(s) = min over q of restore_q - s t_q``,

    f concave and the same for all p of a row: between a few knots its chords are below it. In the
    same way for q. A table of the few p and q with the lowest bounds has a least entry; if it is
    not above the bounds of all others, it is the least of all. If it is above, that row's table
    is made wider.

    Args:
        gram: G ``[columns, columns]``.
    """

    def __init__(self, gram: Tensor) -> None:
        self._gram = gram
        self._size = gram.diagonal().clamp_min(0.0).sqrt()
        tiny = torch.finfo(gram.dtype).tiny
        alike = gram.abs() / self._size.clamp_min(tiny)
        alike /= self._size.clamp_min(tiny)[:, None]
        alike.fill_diagonal_(0.0)
        self._alike = alike.amax(1).clamp_(max=1.0).mul_(2.0 * _ABOVE)

    def best(self, offers: Offers) -> Best:
        t = offers.u.abs() * self._size
        bounds = (
            _bound(offers.prune, offers.restore, t, self._alike),
            _bound(offers.restore, offers.prune, t, self._alike),
        )
        change, p, q, sure = self._among(offers, bounds, _FIRST)
        width, columns = _FIRST, t.shape[1]
        while not bool(sure.all()):
            width = min(width * _WIDER, columns)
            rows = (~sure).nonzero()[:, 0]
            step = max(1, TABLE // width**2)
            for part in rows.split(step):
                given = (bounds[0][part], bounds[1][part])
                change[part], p[part], q[part], sure[part] = self._among(
                    offers.of(part), given, width
                )
        return change, p, q

    def _among(
        self, offers: Offers, bounds: tuple[Tensor, Tensor], width: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best pair of those ``width`` p and q with the lowest bounds; whether it is of all."""
        columns = offers.u.shape[1]
        found = [b.topk(min(width + 1, columns), dim=1, largest=False) for b in bounds]
        p, q = (f.indices[:, :width] for f in found)
        u_p, u_q = offers.u.gather(1, p), offers.u.gather(1, q)
        table = self._gram[p[:, :, None], q[:, None, :]]
        table.mul_(u_p[:, :, None]).mul_(u_q[:, None, :]).mul_(-2.0)
        table.add_(offers.restore.gather(1, q)[:, None, :])
        table.add_(offers.prune.gather(1, p)[:, :, None])
        change, place = table.flatten(1).min(1)
        p = p.gather(1, (place // q.shape[1])[:, None])[:, 0]
        q = q.gather(1, (place % q.shape[1])[:, None])[:, 0]
        sure = torch.ones_like(change, dtype=torch.bool)
        if width < columns:
            others = torch.minimum(found[0].values[:, -1], found[1].values[:, -1])
            sure = (change <= others) | (others >= 0.0)
        return change, p, q, sure


def _bound(own: Tensor, other: Tensor, t: Tensor, alike: Tensor) -> Tensor:
    """Per weight of one kind, a number that none of its pairs is below, ``[rows, columns]``.

    Args:
        own: what the weight itself changes.
        other: what those of the other kind change.
        t: sizes.
        alike: ``[columns]``, twice the largest correlation.
    """
    s = (t * alike).masked_fill_(own.isinf(), 0.0)
    most = s.amax(1, keepdim=True)
    knots = torch.linspace(0.0, 1.0, _KNOTS, device=t.device, dtype=t.dtype).square_()
    values = torch.stack([(other - most * k * t).amin(1) for k in knots], 1)
    share = (s / most.clamp_min(torch.finfo(t.dtype).tiny)).clamp_(0.0, 1.0)
    place = (share.sqrt() * (_KNOTS - 1)).floor_().long().clamp_(0, _KNOTS - 2)
    low, high = knots[place], knots[place + 1]
    at_low, at_high = values.gather(1, place), values.gather(1, place + 1)
    part = ((share - low) / (high - low)).clamp_(0.0, 1.0)
    below = torch.lerp(at_low, at_high, part)
    return own + below.masked_fill_(values[:, :1].isinf(), torch.inf)  # a row without any pair
