"""What removing a weight costs once the others have made up for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Score

if TYPE_CHECKING:
    from steppe.method import Method


@Score.registry.register("obs")
@dataclass(frozen=True, kw_only=True)
class Obs(Score):
    """w_ij / U_jj, U the upper Cholesky factor of the layer's inverse Hessian.

    Its square w^2 / U_jj^2 is the growth of ||X w - X w0||^2 when w_ij goes and the weights right
    of it are re-fitted. U_jj is ``obs_scale``, ``[1, columns]``, which a coupling must provide.

    Source: Hassibi & Stork 1993; SparseGPT (Frantar & Alistarh 2023), eq. 3.
    """

    name = "obs"
    needs = ("obs_scale",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight / stats["obs_scale"]

    def fits(self, method: Method) -> None:
        if "obs_scale" not in (method.solver.provides if method.solver else ()):
            raise SteppeError(
                "score obs needs a coupling that factorises the layer's inverse Hessian",
                got=f"coupling {method.coupling.name}",
                way_out="use coupling obs_update, or score wanda",
            )
