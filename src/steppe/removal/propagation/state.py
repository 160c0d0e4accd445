"""The labels of the activations of a running model, and the register of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from steppe.removal.channel_labels import ChannelLabels, Labels

Dims = list[Labels | None]


class Arguments(tuple[Any, ...]):
    """All arguments of a call of an operation in the order of its schema, and by name."""

    named: Mapping[str, Any]

    @classmethod
    def of(cls, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Arguments:
        """The arguments of one call, the defaults included."""
        declared = operation._schema.arguments
        named = {a.name: a.default_value for a in declared if a.has_default_value()}
        named |= dict(zip([a.name for a in declared], args, strict=False))
        named |= dict(kwargs or {})
        arguments = cls(named.get(a.name) for a in declared)
        arguments.named = named
        return arguments

    def dimensions(self, ndim: int) -> set[int]:
        """The dimensions that the call names, counted from the first; all if it names none."""
        keys = ("dim", "dims", "dimension")
        given = next((self.named[k] for k in keys if self.named.get(k) is not None), None)
        chosen = {given} if isinstance(given, int) else set(given or range(ndim))
        return {d % ndim for d in chosen} if ndim else set()


class LabelPropagation:
    """The labels of the activations of a running model.

    Args:
        channels: the labels of the model's own tensors; couplings are added to it.
    """

    def __init__(self, channels: ChannelLabels) -> None:
        self.channels = channels
        self._activations: dict[int, tuple[Tensor, Dims]] = {}
        """id -> tensor and labels; keeping the tensor prevents that its id is used again."""
        self._fresh: dict[int, Tensor] = {}
        self.where = ""
        """The module that runs, as words for a reason."""
        self.shortcut: tuple[int, int] | None = None
        """Zeros that the running module puts around channels, if surgery can set how many."""

    def labels(self, tensor: Tensor) -> Dims:
        """The labels of a tensor's dimensions."""
        if id(tensor) in self._activations:
            return self._activations[id(tensor)][1]
        known = self.channels.of_tensor.get(id(tensor))
        return [None] * tensor.ndim if known is None else known

    def assign(self, tensor: Tensor, dims: Dims) -> None:
        """Give a new tensor its labels."""
        assert len(dims) == tensor.ndim, (len(dims), tensor.shape)
        self._activations[id(tensor)] = (tensor, dims)

    def mark_fresh(self, tensor: Tensor) -> None:
        """A tensor made while the model runs, equal or drawn alike at all positions.

        Its size may come from the channels that it meets, so that they need not stay for it; a
        size that is written in the code shows in a trial removal.
        """
        self._fresh[id(tensor)] = tensor

    def is_fresh(self, tensor: Tensor) -> bool:
        """Whether nothing but such tensors went into a tensor."""
        return id(tensor) in self._fresh and id(tensor) not in self._activations

    def couple(self, a: Labels | None, b: Labels | None) -> Labels | None:
        """Couple two aligned dimensions; the labels of the result."""
        return None if a is None and b is None else self.channels.couple(a, b, self.where)

    def join(self, a: Tensor, b: Tensor, dim: int) -> Labels | None:
        """Couple one dimension of two tensors, of which a fresh one has whatever size is needed."""
        if self.is_fresh(a) or self.is_fresh(b):
            return self.labels(b if self.is_fresh(a) else a)[dim]
        return self.couple(self.labels(a)[dim], self.labels(b)[dim])

    def couple_rows(self, labels: Labels | None, rows: int) -> None:
        """Couple the same positions of equally long parts that lie one behind the other."""
        if labels is not None:
            table = labels.reshape(rows, -1)
            for row in table[1:]:
                self.couple(table[0], row)

    def contract(self, a: Labels | None, b: Labels | None) -> None:
        """Couple two dimensions that are multiplied and summed over."""
        if a is not None or b is not None:
            self.channels.contract(a, b, self.where)

    def fix(self, labels: Labels | None, reason: str) -> None:
        """These channels must stay."""
        self.channels.fix(labels, reason + self.where)


Rule = Callable[[LabelPropagation, Arguments, Any], None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the propagation rule of the operations ``aten.<name>``."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def first_of(out: Any) -> Tensor:
    """The first tensor that an operation returned."""
    tensor = out[0] if isinstance(out, tuple | list) else out
    assert isinstance(tensor, Tensor)
    return tensor
