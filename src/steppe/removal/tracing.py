"""One traced pass of a model: labels are propagated through every operation of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode

from steppe.core.errors import SteppeError
from steppe.removal.channel_labels import ChannelLabels, Labels
from steppe.removal.containers import tensors_of
from steppe.removal.forward import (
    RunningModules,
    call,
    inputs_for,
    kept_tensors,
    said,
    two_samples,
    untouched,
)
from steppe.removal.label_propagation import propagate
from steppe.removal.propagation.pointwise import follow_fresh
from steppe.removal.propagation.recurrent import recurrent
from steppe.removal.propagation.state import Arguments, LabelPropagation


class Tracer(TorchDispatchMode):
    """Propagates labels through every operation of torch while the model runs.

    An operation without a rule fixes all channels that reach it.

    Args:
        model: whose modules are named.
        channels: the labels of its tensors.
        seen: ids of the tensors that any operation read; more are added.
    """

    def __init__(self, model: nn.Module, channels: ChannelLabels, seen: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = LabelPropagation(channels)
        self.running = RunningModules(model)
        self.seen = seen
        self._named = dict(model.named_modules())
        self._inside: list[nn.Module] = []
        """Recurrent layers that run: they are one operation."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = _tensors_in(args, kwargs)
        self.seen.update(id(tensor) for tensor in tensors)
        if self._inside:
            return out
        state = self.state
        labels = [own for t in tensors for own in state.labels(t) if own is not None]
        if labels:
            module = self.running.innermost
            state.where = f" in {module}" if module else ""
            self._propagate(func, Arguments.of(func, args, kwargs), out, labels)
        else:
            follow_fresh(state, func, tensors, out)
        return out

    def _propagate(self, func: Any, args: Arguments, out: Any, labels: list[Labels]) -> None:
        name = func.overloadpacket.__name__
        known = self._guarded(name, labels, lambda: propagate(self.state, func, args, out))
        if not known:
            for own in labels:
                self.state.fix(own, f"goes through {name}")

    def _guarded(self, name: str, labels: list[Labels], rule: Callable[[], bool]) -> bool:
        """Apply a rule; what it stumbles over stays, as this is never the model's fault."""
        try:
            return rule()
        except Exception as error:
            for own in labels:
                self.state.fix(own, f"goes through {name} in an unknown form ({said(error)})")
            return True

    def entered(self, module: nn.Module, args: Any) -> None:
        """A module starts."""
        self.running.entered(module, args)
        self.state.shortcut = shortcut_padding(module)
        if isinstance(module, nn.RNNBase):
            self._inside.append(module)

    def left(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        """A module has ended."""
        name = self.running.innermost
        self.running.left(module, args, kwargs, out)
        self.state.shortcut = shortcut_padding(self._named[self.running.innermost])
        if isinstance(module, nn.RNNBase):
            self._inside.pop()
            self.state.where = f" in {name}" if name else ""
            read = [_data(t) for t in (*args, *kwargs.values()) if t is not None]
            tensors = [*tensors_of(read), *module.parameters()]
            labels = [own for t in tensors for own in self.state.labels(t) if own is not None]
            self._guarded(
                type(module).__name__,
                labels,
                lambda: recurrent(self.state, module, read[0], tensors_of(read[1:]), _answers(out)),
            )

    @contextmanager
    def following(self) -> Iterator[None]:
        """While this lasts, everything that runs is traced."""
        hooks = [
            nn.modules.module.register_module_forward_pre_hook(self.entered),
            nn.modules.module.register_module_forward_hook(self.left, with_kwargs=True),
        ]
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it is one operation for a whole block
        try:
            with self:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for hook in hooks:
                hook.remove()


def _data(sequence: Any) -> Any:
    return sequence.data if isinstance(sequence, PackedSequence) else sequence


def _answers(out: Any) -> list[Tensor]:
    """The outputs of a recurrent layer, and its last states."""
    return [_data(out[0]), *tensors_of(out[1])]


def _tensors_in(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> list[Tensor]:
    """The tensors of an operation's arguments, which are lists at most."""
    tensors = []
    for value in (*args, *(kwargs or {}).values()):
        values = value if isinstance(value, list | tuple) else (value,)
        tensors += [v for v in values if isinstance(v, Tensor)]
    return tensors


def trace(model: nn.Module, example_inputs: Any) -> tuple[ChannelLabels, set[int], str]:
    """The labels of a model after one traced pass in evaluation and one in training mode.

    Args:
        model: left as it was.
        example_inputs: one batch; in training mode at least two samples of it, where it can be
            cut so.

    Returns:
        Labels, ids of the tensors that were read, and why training mode does not run ("" if it
        does): what only runs there is then not known.

    Raises:
        SteppeError: the model refuses the inputs in evaluation mode.
    """
    channels, seen = ChannelLabels(model), set[int]()
    _pass(model, channels, seen, inputs_for(model, example_inputs), training=False)
    try:
        inputs = two_samples(inputs_for(model, example_inputs))
        _pass(model, channels, seen, inputs, training=True)
    except SteppeError as error:
        return channels, seen, str(error.got)
    return channels, seen, ""


def _pass(
    model: nn.Module, channels: ChannelLabels, seen: set[int], inputs: Any, training: bool
) -> None:
    tracer = Tracer(model, channels, seen)
    kept_before = [tensor for _, tensor in kept_tensors(model)]  # no id is used again meanwhile
    before = {id(tensor) for tensor in kept_before}
    with untouched(model, training), tracer.following():
        outputs = tensors_of(call(model, inputs), consume=True)
    for tensor in outputs:
        for labels in tracer.state.labels(tensor):
            channels.fix(labels, "reaches the model's output")
    for name, tensor in kept_tensors(model):
        if id(tensor) not in before and id(tensor) not in channels.of_tensor:
            for labels in tracer.state.labels(tensor):
                channels.fix(labels, f"is kept as {name} of the model")


def shortcut_padding(module: nn.Module) -> tuple[int, int] | None:
    """The zeros in front of and behind the channels of a shortcut (He et al. 2016, option A)."""
    sizes = [getattr(module, name, None) for name in ("front", "back")]
    convs = [getattr(module, name, None) for name in ("conv1", "conv2")]
    if all(isinstance(s, int) for s in sizes) and all(isinstance(c, nn.Conv2d) for c in convs):
        return sizes[0], sizes[1]  # type: ignore[return-value]
    return None
