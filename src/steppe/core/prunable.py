"""What is prunable is decided here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

from steppe.core.derived import Derived, derived_weights, is_part
from steppe.core.errors import SteppeError
from steppe.core.layer import Layer, inputs_first, unwrap

_PLAIN = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUPLED = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_NAMED = 16
"""How many layers that stay dense for one reason a note names."""


@dataclass(frozen=True)
class LeftDense:
    """A matrix of the model that stays dense.

    Args:
        name: of the weight.
        numel: its entries.
        why: what it is, e.g. ``Embedding``.
        way_out: what to type to have it pruned; nothing where naming it in ``include`` will do.
    """

    name: str
    numel: int
    why: str
    way_out: str = ""


@dataclass(frozen=True)
class Selection:
    """What may become zero of a model, and what else it has.

    Args:
        layers: sorted by name.
        weights: name -> parameter.
        dense: matrices that stay dense although no pattern said so.
        parameters: how many the whole model has, biases and norms too.
    """

    layers: list[Layer]
    weights: dict[str, nn.Parameter]
    dense: list[LeftDense]
    parameters: int


def dense_note(dense: Sequence[LeftDense], numel: int, parameters: int) -> list[str]:
    """A sentence that names what stays dense, the largest first; none where nothing does.

    Args:
        dense: matrices that stay dense.
        numel: how many weights may become zero.
        parameters: of the whole model.

    Example:
        >>> dense_note([LeftDense("e.weight", 20, "Embedding")], 75, 100)[0]
        "the sparsity is that of 75.0 % of the model's parameters; dense stay e.weight (Embedding, \
20.0 %)"
        >>> dense_note([], 75, 100)
        []
    """
    if not dense:
        return []
    alike: dict[tuple[str, str], list[LeftDense]] = {}
    for d in sorted(dense, key=lambda d: (-d.numel, d.name)):
        alike.setdefault((d.why, d.way_out), []).append(d)
    shown = []
    for (why, way_out), own in alike.items():
        more = f" and {len(own) - _NAMED} more" if len(own) > _NAMED else ""
        share = percent(sum(d.numel for d in own), parameters)
        how = f": {way_out}" if way_out else ""
        shown.append(f"{', '.join(d.name for d in own[:_NAMED])}{more} ({why}, {share}{how})")
    return [
        f"the sparsity is that of {percent(numel, parameters)} of the model's parameters; "
        f"dense stay {', '.join(shown)}"
    ]


def percent(part: int, whole: int) -> str:
    """A share in percent, with as many digits as it needs.

    Example:
        >>> percent(21, 1000), percent(2, 10000)
        ('2.1 %', '0.02 %')
    """
    share = part / max(whole, 1)
    return f"{100 * share:.1f} %" if share >= 1e-3 or not part else f"{100 * share:.2g} %"


@dataclass(frozen=True)
class _Matrix:
    """One matrix of a model: what is decided on."""

    name: str
    module_name: str
    kind: str
    weight: nn.Parameter | None
    shape: tuple[int, ...]
    layout: Mapping[str, Any] | None = None
    """What `Layer` is told of a layer's weight; None for one that only ``include`` asks for."""
    derived: Derived | None = None
    head: bool = False

    def matches(self, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(self.name, p) or fnmatchcase(self.module_name, p) for p in patterns)

    @property
    def usual(self) -> bool:
        """Whether it is a layer's weight and can be pruned."""
        return self.layout is not None and self.derived is None

    @property
    def layer(self) -> Layer:
        return Layer(self.name, self.shape, **(self.layout or {}))

    def left_dense(self) -> LeftDense:
        """What is to be said where it stays dense."""
        if self.derived is not None:
            module = f"model.get_submodule({self.module_name!r})" if self.module_name else "model"
            way_out = self.derived.way_out.replace("{}", module)
            why = f"{self.kind}, made by {self.derived.maker}"
            return LeftDense(self.name, self.layer.numel, why, way_out)
        assert self.weight is not None
        kind = "the output head" if self.head else self.kind
        if not (self.weight.is_floating_point() or self.weight.is_complex()):
            kind = f"{self.kind} of {self.weight.dtype}"
        return LeftDense(self.name, self.layer.numel, kind)


def _layouts(module: nn.Module, derived: Mapping[str, Derived]) -> dict[str, dict[str, Any]]:
    """Name in the module -> how its layer's weights lie; the module's children left out."""
    if isinstance(module, _PLAIN):
        return {"weight": {}}
    if isinstance(module, _TRANSPOSED):
        return {"weight": {"transposed": True, "groups": module.groups}}
    if isinstance(module, _COUPLED):
        names = [n for n, p in module._parameters.items() if p is not None and p.ndim == 2]
        whole = [n for n in (*names, *derived) if not is_part(n, dict(derived))]
        return {n: {"coupled_outputs": True} for n in whole if "bias" not in n}
    if inputs_first(module):
        return {"weight": {"transposed": True}}
    if hasattr(module, "is_transposed") and hasattr(module, "has_gate"):
        # transformers packs the experts of a mixture into (experts, outputs, inputs)
        packed = {"stacked": True, "transposed": bool(module.is_transposed)}
        return {n: packed for n, p in module._parameters.items() if p is not None and p.ndim == 3}
    return {}


def _matrices(model: nn.Module) -> Iterator[_Matrix]:
    """Every tensor of two dimensions and more that the model multiplies with or looks up."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    makers: set[int] = set()
    for module in model.modules():
        if isinstance(module, ParametrizationList):
            makers.update(id(m) for m in module.modules())
    for module_name, module in sorted(model.named_modules(), key=lambda item: item[0]):
        if id(module) in makers:
            continue
        prefix = f"{module_name}." if module_name else ""
        derived = derived_weights(module)
        layouts = _layouts(module, derived)
        kind = type(module).__name__.removeprefix("Parametrized")
        for tensor, made in derived.items():
            if len(made.shape) > 1:
                layout = layouts.get(tensor)
                yield _Matrix(prefix + tensor, module_name, kind, None, made.shape, layout, made)
        for tensor, weight in module._parameters.items():
            if weight is None or is_part(tensor, derived):
                continue
            layout = layouts.get(tensor)
            lazy = isinstance(weight, UninitializedParameter)
            if (lazy and layout is not None) or (not lazy and weight.ndim > 1):
                shape = () if lazy else tuple(weight.shape)
                yield _Matrix(
                    prefix + tensor, module_name, kind, weight, shape, layout, head=module is head
                )


def prunable(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Layer], dict[str, nn.Parameter]]:
    """The weights that a method may make zero, in name order.

    The matrices of Linear, Bilinear, Conv1d/2d/3d, ConvTranspose1d/2d/3d, of recurrent layers and
    cells, of MultiheadAttention, of transformers' Conv1D and the packed experts of its mixtures,
    first and last layer included; never biases and norms. A language model's output head,
    embeddings and bare parameters stay dense unless ``include`` names them. A tied weight counts
    once. A weight that others make (weight_norm, spectral_norm, torch.nn.utils.prune) stays dense.

    Args:
        model: any module; wrappers (DistributedDataParallel, compile) are looked through.
        include: shell patterns over weight or module names; when given, only what they match. A
            pattern that matches layers means those; one that matches none means embeddings and
            bare parameters of two dimensions and more.
        exclude: shell patterns; what they match stays dense.

    Returns:
        The layers sorted by name, and name -> parameter.

    Raises:
        SteppeError: a pattern matches nothing, or only weights that others make; nothing is left;
            a lazy layer does not know its size.

    Example:
        >>> layers, _ = prunable(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), exclude=["0"])
        >>> [layer.name for layer in layers]
        ['1.weight']
    """
    chosen = selection(model, include, exclude)
    return chosen.layers, chosen.weights


def selection(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Selection:
    """What `prunable` says, and beside it what stays dense and why.

    Args:
        model, include, exclude: see `prunable`.

    Raises:
        SteppeError: see `prunable`.

    Example:
        >>> chosen = selection(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2, bias=False)))
        >>> [d.name for d in chosen.dense], chosen.parameters
        (['0.weight'], 28)
    """
    model = unwrap(model)
    matrices = list(_matrices(model))
    asked = _asked(matrices, include, exclude)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    gone = {id(m.weight) for m in matrices if m.weight is not None and m.matches(exclude)}
    layers: dict[str, Layer] = {}
    weights: dict[str, nn.Parameter] = {}
    others: list[_Matrix] = []
    for m in matrices:
        by_default = m.usual and not (include or m.head or id(m.weight) in embeddings)
        if id(m.weight) in gone or m.matches(exclude) or 0 in m.shape:
            continue
        if m.weight is None or not (m.name in asked or by_default):
            others.append(m)
        elif _known(m).is_floating_point() or m.weight.is_complex():
            layers[m.name], weights[m.name] = m.layer, m.weight
            gone.add(id(m.weight))  # a second name of it is no second weight
        else:
            others.append(m)
    dense = _dense(others, include, gone)
    if not layers:
        beside = f" beside {dense[0].name} ({dense[0].why})" if dense else ""
        named = f"include={[dense[0].name]}" if dense else "check the include and exclude patterns"
        raise SteppeError(
            "something must be prunable",
            got=f"{type(model).__name__} with no matrix selected{beside}",
            way_out=dense[0].way_out or named if dense else named,
        )
    return Selection(list(layers.values()), weights, dense, parameters_of(model))


def made_by_others(model: nn.Module) -> list[LeftDense]:
    """The weights of a model that are no parameters, as weight_norm makes them.

    Example:
        >>> made_by_others(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))[0].why
        'Linear, made by weight_norm'
    """
    return [m.left_dense() for m in _matrices(unwrap(model)) if m.derived is not None]


def parameters_of(model: nn.Module) -> int:
    """How many parameters a model has; those of lazy layers that know no size are none yet.

    Example:
        >>> parameters_of(nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(2)))
        8
    """
    known = (p for p in model.parameters() if not isinstance(p, UninitializedParameter))
    return sum(p.numel() for p in known)


def _dense(others: Sequence[_Matrix], include: Sequence[str], gone: set[int]) -> list[LeftDense]:
    """Of what is not pruned, what the caller did not speak of; a tied weight once."""
    dense: dict[int, LeftDense] = {}
    for i, m in enumerate(others):
        key = i if m.weight is None else id(m.weight)
        spoken_of = bool(include) and not m.matches(include)
        vector = sum(size > 1 for size in m.shape) < 2
        if not (spoken_of or vector or key in dense or id(m.weight) in gone):
            dense[key] = m.left_dense()
    return list(dense.values())


def _known(m: _Matrix) -> nn.Parameter:
    """Its weight, if that has a shape already."""
    assert m.weight is not None
    if isinstance(m.weight, UninitializedParameter):
        raise SteppeError(
            "a lazy layer knows its size after one pass",
            got=f"{m.name} of a {m.kind}",
            way_out="run the model once, model(x), before it is looked at",
        )
    return m.weight


def _asked(matrices: Sequence[_Matrix], include: Sequence[str], exclude: Sequence[str]) -> set[str]:
    """Names of the matrices that ``include`` asks for.

    Raises:
        SteppeError: a pattern matches nothing, or only what others make.
    """
    for what, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise SteppeError(
                f"{what} is a list of patterns",
                got=repr(patterns),
                way_out=f"{what}=[{patterns!r}]",
            )
    for m in matrices:
        in_question = (not include or m.matches(include)) and not m.matches(exclude)
        if in_question and m.derived is not None and m.derived.of_sparsify:
            raise SteppeError(
                "prunable weights must be parameters",
                got=f"{m.name}, which an earlier sparsify makes from others",
                way_out="finish() that one first, or build the model anew",
            )
    asked: set[str] = set()
    for pattern in (*include, *exclude):
        hits = [m for m in matrices if m.matches([pattern])]
        if not hits:
            usual = [m.name for m in matrices if m.usual]
            raise SteppeError(
                "a pattern must match the name of a prunable weight or module",
                got=repr(pattern),
                consequence="it would silently do nothing",
                way_out="names look like " + ", ".join(usual[:3] or ["layer1.0.conv1"]),
            )
        if pattern in include:
            asked |= _meant(pattern, hits)
    return asked


def _meant(pattern: str, hits: Sequence[_Matrix]) -> set[str]:
    """Of what a pattern of ``include`` matches: layers, and where there are none, all else."""
    pruned = [m for m in hits if m.derived is None]
    if not pruned:
        dense = hits[0].left_dense()
        raise SteppeError(
            "what is included must be a parameter",
            got=f"{pattern!r}, which names only {dense.name} ({dense.why})",
            way_out=dense.way_out,
        )
    usual = {m.name for m in pruned if m.usual}
    return (usual or {m.name for m in pruned}) | {m.name for m in pruned if m.name == pattern}
