"""A trial removal: groups of channels are proved on a copy before any training."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, masks_of, positions
from steppe.removal.containers import tensors_of
from steppe.removal.copies import copy_of
from steppe.removal.forward import call, inputs_for, two_samples, untouched
from steppe.removal.surgery import slice_model
from steppe.removal.verification import Difference, dense, is_steady, largest_difference

Item = TypeVar("Item")


def prove_groups(
    model: nn.Module, groups: Sequence[Group], example_inputs: Any
) -> tuple[list[Group], dict[str, str]]:
    """The groups of which units can really go: a copy runs without them, and gives the same.

    About half of the units of every group are made zero in one copy and cut out of another; both
    run on two samples, in evaluation and in training mode. Where they differ, the groups at fault
    are searched by halving.

    Args:
        model: left as it was; weights that no group touches are not copied.
        groups: of the model.
        example_inputs: one batch.

    Returns:
        The groups that are proved, and for the others: name -> what happens without its units.

    Example:
        >>> class Literal(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(16, 2)
        ...     def forward(self, x):
        ...         return self.head(self.conv(x).view(-1, 16))
        >>> from steppe.removal.dependency_graph import traced_groups
        >>> net, x = Literal(), torch.zeros(1, 3, 2, 2)
        >>> proved, failed = prove_groups(net, traced_groups(net, x), x)
        >>> proved, list(failed)
        ([], ['conv.weight'])
    """
    trial = _Trial(model, example_inputs)
    families: dict[str, list[Group]] = {}
    for group in groups:
        families.setdefault(re.sub(r"\d+", "*", group.name), []).append(group)
    passed, failed = largest_passing(
        list(families.items()),
        lambda some: trial.fault([group for _, members in some for group in members]),
        lambda family: family[0],
    )
    proved = [group for _, members in passed for group in members]
    faults: dict[str, str] = {}
    for family, why in failed.items():
        members, faults_here = _of_one_family(trial, proved, families[family], why)
        proved += members
        faults |= faults_here
    order = {group.name: i for i, group in enumerate(groups)}
    return sorted(proved, key=lambda group: order[group.name]), faults


def _of_one_family(
    trial: _Trial, proved: list[Group], members: list[Group], why: str
) -> tuple[list[Group], dict[str, str]]:
    """The same layers of many blocks: if the first, middle and last fail alone, so do all."""
    probes = {0: members[0], len(members) // 2: members[len(members) // 2], -1: members[-1]}
    if len(members) == 1 or all(trial.fault([*proved, g]) for g in probes.values()):
        return [], {group.name: why for group in members}
    return largest_passing(
        members, lambda some: trial.fault([*proved, *some]), lambda group: group.name
    )


def largest_passing(
    items: Sequence[Item], fault: Callable[[Sequence[Item]], str], name: Callable[[Item], str]
) -> tuple[list[Item], dict[str, str]]:
    """Items that pass a test together, and the faults of the others.

    One test where all pass; else halves are added to what has passed, for about
    ``b log2(n)`` tests with ``b`` of ``n`` at fault.

    Args:
        items: in the order in which they are tried.
        fault: of some items together; "" if they pass.
        name: of an item.

    Example:
        >>> largest_passing([1, 2, 3], lambda some: "two" if 2 in some else "", str)
        ([1, 3], {'2': 'two'})
    """
    passed: list[Item] = []
    faults: dict[str, str] = {}

    def add(some: Sequence[Item]) -> None:
        why = fault([*passed, *some]) if some else ""
        if not why:
            passed.extend(some)
        elif len(some) == 1:
            faults[name(some[0])] = why
        else:
            middle = len(some) // 2
            add(some[:middle])
            add(some[middle:])

    add(items)
    return passed, faults


class _Trial:
    """Runs a model whose units are zero beside one that is cut."""

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.inputs = two_samples(example_inputs)
        self.modes = [False, True]
        self.model = copy_of(model)
        if self._answer() is None:  # it takes no other batch than its own
            self.inputs = example_inputs
        self.model = copy_of(model, changed=_restless(model))
        answer = self._answer()
        if answer is None or not all(bool(tensor.isfinite().all()) for tensor in answer):
            self.model = copy_of(model)

    def _answer(self, training: bool = False) -> list[Tensor] | None:
        """What the whole model gives; None if it does not run."""
        try:
            with untouched(self.model, training):
                answer = call(self.model, inputs_for(self.model, self.inputs))
                return [dense(tensor) for tensor in tensors_of(answer, consume=True)]
        except SteppeError:
            return None

    def fault(self, groups: Sequence[Group]) -> str:
        """What happens without units of these groups; "" if nothing does."""
        tensors = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        kept = {group.name: some_units(group) for group in groups}
        masks = masks_of(groups, kept, dict(self.model.named_parameters()))
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        zeroed = copy_of(
            self.model, changed={name: tensors[name].detach() * m for name, m in masks.items()}
        )
        smaller = copy_of(self.model)
        try:
            slice_model(smaller, positions(groups, kept, shapes))
        except SteppeError as error:
            return f"cannot be cut: {error.got}"
        for training in list(self.modes):
            mode = " in training mode" if training else ""
            try:
                largest_difference(zeroed, smaller, self.inputs, training)
            except Difference as difference:
                if not difference.ran:
                    return f"does not run without some of its channels{mode}: {difference}"
                if is_steady(self.model, self.inputs, training):
                    return f"gives {difference}{mode} without channels that are zero"
            except SteppeError as error:
                if self._answer(training) is not None:
                    return f"does not run with channels that are zero{mode}: {error.got}"
                self.modes.remove(training)  # the model itself does not run so
        return ""


def some_units(group: Group) -> Tensor:
    """Which units stay in a trial: about half, an odd number goes, at random."""
    kept = torch.ones(group.units, dtype=torch.bool)
    if group.units > 1:
        gone = (group.units // 2 - 1) | 1
        order = torch.randperm(group.units, generator=torch.Generator().manual_seed(group.units))
        kept[order[: max(gone, 1)]] = False
    return kept


def _restless(model: nn.Module) -> dict[str, Tensor]:
    """Vectors and constants with noise: what is zero at the start would prove nothing."""
    generator = torch.Generator().manual_seed(0)
    new = {}
    running = [(n, b) for n, b in model.named_buffers() if "running_" in n]
    for name, tensor in [*model.named_parameters(), *running]:
        if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            continue
        value = tensor.detach()
        constant = bool(value.min() == value.max())
        if tensor.ndim > 1 and not constant:
            continue
        scale = 0.3 if tensor.ndim < 2 else value[0].numel() ** -0.5
        noise = torch.randn(value.shape, generator=generator) * scale
        noise = noise.to(value.device, value.dtype)
        # a variance stays above zero
        new[name] = value * noise.exp() if name.endswith("running_var") else value + noise
    return new
