"""A method whose layers are solved once, with that solution refined."""

from __future__ import annotations

from steppe.core.errors import SteppeError
from steppe.coupling.mask_swaps import MaskSwaps
from steppe.method import Method


def with_swaps(method: Method, swaps: int = 100) -> Method:
    """The method, for language models, with exchanges of weights after what solves its layers.

    That is its coupling, or what its blocks start from.

    Args:
        method: any that solves layers, or starts from layers that are solved.
        swaps: exchanges of a row, at most.

    Raises:
        SteppeError: it solves no layer at once, or in another structure than single weights.

    Example:
        >>> import steppe
        >>> refined = with_swaps(steppe.methods.wanda(sparsity=0.7))
        >>> refined.coupling.name, refined.coupling.solver.name, refined.coupling.swaps
        ('mask_swaps', 'hard_mask', 100)
        >>> with_swaps(steppe.methods.safe(sparsity=0.7)).objective.start.solver.name
        'layer_admm'

    Source: SparseSwaps (arXiv 2512.10922).
    """
    form = method.for_language()
    if form.structure.removes is not None:
        raise SteppeError(
            "swaps exchange single weights of a row",
            got=f"method {method.name}, which removes whole {form.structure.removes}",
            way_out="leave the swaps out; or a method that sets single weights to zero, as wanda",
        )
    start = form.objective.starts_from
    if start is not None:
        refined = MaskSwaps(solver=start, swaps=swaps)
        return form.replace(objective=form.objective.to_dict() | {"start": refined})
    if form.objective.scope == "layer" and form.solver is not None:
        return form.replace(coupling=MaskSwaps(solver=form.solver, swaps=swaps))
    raise SteppeError(
        "swaps refine layers that are solved at once",
        got=f"method {method.name}, whose blocks are trained from dense weights",
        way_out="--method wanda, sparsegpt, alps, or safe with its usual start",
    )
