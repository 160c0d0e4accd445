"""Options of the optimiser for some parameters: by patterns of names, or by what they are."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from steppe.core.errors import SteppeError, unknown
from steppe.core.layer import unwrap
from steppe.core.patterns import matches
from steppe.core.protocols import Coupling, WeightParametrization
from steppe.core.text import counted
from steppe.engine.step.named_groups import add_like, fill, names_of
from steppe.engine.step.optimizers import Optimizers, scheduled

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class _Trained:
    """A parameter, and under which names patterns know it."""

    names: tuple[str, ...]
    vector: bool = True
    of_norm: bool = False
    threshold: bool = False
    decays: bool = True
    """Whether the optimiser's weight decay may act on it; a coupling can say no."""

    @property
    def is_bias(self) -> bool:
        last = (name.rpartition(".")[2] for name in self.names)
        return self.vector and any(re.search("(^|_)bias(_|$)", name) for name in last)


KINDS: Mapping[str, Callable[[_Trained], bool]] = {
    "norm": lambda p: p.of_norm,
    "bias": lambda p: p.is_bias,
    "threshold": lambda p: p.threshold,
}
"""What a parameter may be, whatever the network calls it."""


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Options of the optimiser for some parameters; the others keep the usual ones.

    Args:
        params: shell patterns of the names of parameters or of their modules (``*.bias``). The
            parts that a coupling trains in a weight's place go by the weight's name and by their
            own (``conv1.weight:m``), a threshold by its own (``conv1.weight:s``).
        kind: ``norm``: weights and biases of norms; ``bias``: every bias; ``threshold``: what a
            coupling learns beside the weights, as `soft_threshold` does. Either this or params.
        options: lr, weight_decay, momentum, ...: whatever the optimiser has for a group.

    Raises:
        SteppeError: neither patterns nor kinds, or both; an unknown kind; no option.

    Example:
        >>> ParameterGroup.make({"kind": "norm", "weight_decay": 0})
        ParameterGroup(params=(), kind=('norm',), options={'weight_decay': 0})
    """

    params: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in self.kind:
            if kind not in KINDS:
                raise unknown("kind of parameters", kind, KINDS)
        if bool(self.params) == bool(self.kind) or not self.options:
            raise SteppeError(
                "a group of the optimizer has params or a kind, and options",
                got=self._text,
                way_out="{kind: [norm, bias], weight_decay: 0}, or {params: '*.bias', lr: 0.01}",
            )

    @classmethod
    def make(cls, given: ParameterGroup | Mapping[str, Any]) -> ParameterGroup:
        """A group from plain data, as a recipe writes it; several names as a list, or with commas.

        Raises:
            SteppeError: it is no mapping, or no whole group.
        """
        if isinstance(given, ParameterGroup):
            return given
        if not isinstance(given, Mapping):
            raise SteppeError(
                "a group of the optimizer is a mapping",
                got=repr(given),
                way_out="{kind: norm, weight_decay: 0}",
            )
        options = {str(k): v for k, v in given.items() if k not in ("params", "kind")}
        names = {key: _listed(given.get(key)) for key in ("params", "kind")}
        return cls(options=options, **names)

    @property
    def _text(self) -> str:
        chosen = ", ".join(self.params) or ", ".join(self.kind) or "everything"
        return f"{chosen}: {', '.join(f'{k} {v}' for k, v in self.options.items()) or 'no option'}"

    def check(self, optimizer: type[Optimizer], usual: Mapping[str, Any]) -> None:
        """Compare the options with those of an optimiser.

        Args:
            optimizer: its class.
            usual: the options of what is in no group.

        Raises:
            SteppeError: it has no such option for a group, or not this value.
        """
        theirs = optimizer.__module__.startswith("torch.optim")
        taken = set(inspect.signature(optimizer).parameters) - {"params"} if theirs else set(usual)
        for key in self.options:
            if key not in taken:
                raise unknown(
                    f"option of optimizer {optimizer.__name__} for a group of parameters",
                    key,
                    {"params", "kind"} | taken,
                )
        if not theirs:
            return
        options = {k: v for k, v in {**usual, **self.options}.items() if k in taken}
        try:
            optimizer([nn.Parameter(torch.zeros(2, 2))], **options)
        except (TypeError, ValueError, AttributeError) as error:
            raise SteppeError(
                f"optimizer {optimizer.__name__} must take the options of each of its groups",
                got=f"{self._text} ({error})",
                way_out="{kind: norm, weight_decay: 0}",
            ) from None

    def members(self, trained: Mapping[int, _Trained]) -> set[int]:
        """``id`` of the parameters that it means.

        Raises:
            SteppeError: a pattern matches nothing, or there is nothing of a kind.
        """
        meant: set[int] = set()
        for kind in self.kind:
            own = {key for key, p in trained.items() if KINDS[kind](p)}
            if not own:
                there = [k for k, is_one in KINDS.items() if any(map(is_one, trained.values()))]
                raise SteppeError(
                    "a group of the optimizer has parameters of each of its kinds",
                    got=f"{kind}, of which network and method have none",
                    consequence="it would silently do nothing",
                    way_out=f"kinds that there are: {', '.join(there) or 'none'}; or params",
                )
            meant |= own
        for pattern in self.params:
            own = {k for k, p in trained.items() if any(matches(n, pattern) for n in p.names)}
            if not own:
                raise _matches_nothing(pattern, [n for p in trained.values() for n in p.names])
            meant |= own
        return meant


def _listed(value: Any) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value or ()
    if not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise SteppeError(
            "params and kind of an optimizer's group are texts",
            got=repr(value),
            way_out="{params: ['*.bias', 'linear.*'], weight_decay: 0}",
        )
    return tuple(one.strip() for one in given)


def _matches_nothing(pattern: str, names: Sequence[str]) -> SteppeError:
    near = get_close_matches(pattern.strip("*."), names, n=3, cutoff=0.4) or names[:2]
    shown = [name for name in near if name != names[-1]]
    return SteppeError(
        "a pattern of an optimizer's group must match a parameter",
        got=repr(pattern),
        consequence="it would silently do nothing",
        way_out=f"names look like {', '.join(shown)}; the last is {names[-1]}",
    )


def divide(
    optimizers: Optimizers,
    model: nn.Module,
    groups: Sequence[ParameterGroup | Mapping[str, Any]],
    parts: Mapping[str, nn.Parameter],
    coupling: Coupling,
) -> list[str]:
    """Give the parameters of each group its options; of several that fit the first wins.

    What is in none keeps the options that it has. Learning rates of groups are remembered as
    ``initial_lr``, which schedules of torch multiply.

    Args:
        optimizers: over the parameters, before their first step.
        model: whose names patterns match.
        groups: in the order in which they are asked.
        parts: name -> what the coupling trains in the place of weights.
        coupling: of the method.

    Returns:
        A sentence for each group.

    Raises:
        SteppeError: a pattern matches nothing, an option is not the optimiser's, a group comes
            too late to have any parameter, an optimiser has a scheduler already.
    """
    made = [ParameterGroup.make(group) for group in groups]
    if not made:
        return []
    held = {id(p) for p in optimizers.params}
    named = _named(unwrap(model), parts, coupling.parametrization)
    trained = {key: p for key, p in named.items() if key in held}
    notes, chosen = [], dict[int, int]()
    for number, group in enumerate(made):
        left = group.members(trained) - chosen.keys()
        notes.append(_said(group, number, left, trained))
        chosen |= dict.fromkeys(left, number)
    for optimizer in optimizers.each():
        _regroup(optimizer, made, chosen, {key for key, p in trained.items() if not p.decays})
    return notes


def _named(
    model: nn.Module,
    parts: Mapping[str, nn.Parameter],
    parametrization: WeightParametrization | None,
) -> dict[int, _Trained]:
    """``id`` of each parameter -> how it is known."""
    names: dict[int, tuple[str, ...]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names[id(p)] = (*names.get(id(p), ()), name)
    of_norms = {id(p) for m in model.modules() for p in m.parameters(False) if _of_norm(m, p)}
    vectors = {id(p) for p in model.parameters() if p.ndim < 2}
    trained = {
        key: _Trained(own, vector=key in vectors, of_norm=key in of_norms)
        for key, own in names.items()
    }
    for name, part in parts.items():
        assert parametrization is not None
        weight, _, kind = name.rpartition(":")
        threshold = kind in parametrization.thresholds
        trained[id(part)] = _Trained(
            (name,) if threshold else (name, weight),
            vector=False,
            threshold=threshold,
            decays=parametrization.decays,
        )
    return trained


def _of_norm(module: nn.Module, parameter: nn.Parameter) -> bool:
    """By its class; norms that torch does not have are called so, and their tensors are vectors."""
    if isinstance(module, _NORMS):
        return True
    return "Norm" in type(module).__name__ and parameter.ndim < 2


def _said(
    group: ParameterGroup, number: int, left: set[int], trained: Mapping[int, _Trained]
) -> str:
    """What the record says of a group.

    Raises:
        SteppeError: those before it have all of its parameters; it says nothing but a weight decay
            for parts that the coupling decays itself.
    """
    if not left:
        raise SteppeError(
            "each group of the optimizer has parameters of its own; the first that fits wins",
            got=f"group {number + 1} ({group._text}), whose parameters are all in earlier ones",
            way_out="name the narrower group first",
        )
    fixed = {key for key in left if not trained[key].decays}
    if left == fixed and group.options.keys() == {"weight_decay"}:
        raise SteppeError(
            "the coupling decays the parts of the weights itself",
            got=f"group {number + 1} ({group._text}), which has nothing else",
            way_out="the method's own strength, e.g. method.alpha",
        )
    shown = ", ".join(f"{key} {value}" for key, value in group.options.items())
    names = ", ".join(group.params or group.kind)
    note = f"optimizer group {number + 1} ({names}): {shown} for {counted(len(left), 'tensor')}"
    if fixed and "weight_decay" in group.options:
        note += f"; no weight decay for {len(fixed)} of them, which the coupling decays itself"
    return note


def _regroup(
    optimizer: Optimizer, groups: Sequence[ParameterGroup], chosen: Mapping[int, int], own: set[int]
) -> None:
    """Move the chosen parameters of an optimiser into groups of their own.

    Args:
        optimizer: whose.
        groups: their options.
        chosen: ``id`` -> number of the group.
        own: ``id`` of what keeps the weight decay that it has.
    """
    for group in list(optimizer.param_groups):
        moved: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for p in group["params"]:
            if id(p) in chosen:
                moved.setdefault((chosen[id(p)], id(p) in own), []).append(p)
        if not moved:
            continue
        if scheduled(optimizer):
            raise SteppeError(
                "groups of the optimizer are made before its scheduler",
                got="an optimizer that has a learning-rate scheduler already",
                consequence="the new groups' learning rate would stay constant",
                way_out="make the scheduler after sparsify, or these groups with the optimizer",
            )
        names = names_of([group])
        fill(group, [p for p in group["params"] if id(p) not in chosen], names)
        usual = {key: value for key, value in group.items() if key != "params"}
        for (number, keeps), params in sorted(moved.items(), key=lambda item: item[0]):
            groups[number].check(type(optimizer), usual)
            options = dict(groups[number].options)
            if keeps:
                options.pop("weight_decay", None)
            if "lr" in options:
                options["initial_lr"] = options["lr"]
            add_like(optimizer, group, options, params, names)
        if not group["params"]:
            optimizer.param_groups.remove(group)
