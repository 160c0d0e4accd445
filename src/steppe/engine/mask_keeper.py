"""Masks that stay exactly as they are while a pruned model is trained further."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.layer import unwrap
from steppe.core.mask import count_zeros, pack, unpack
from steppe.core.prunable import made_by_others, prunable
from steppe.core.serialization import damaged

MASKS = "masks.safetensors"
_MERGES = ("merge_and_unload", "merge_adapter")


def read_masks(path: Path | str) -> dict[str, Tensor]:
    """Name -> booleans (True = kept) from a run's folder or from one file of masks.

    Raises:
        SteppeError: there are no masks, or a file is damaged.
    """
    path = Path(path)
    files = sorted(path.glob("masks*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise SteppeError(
            "masks are read from a folder that steppe wrote",
            got=f"{path}, which holds no masks*.safetensors",
            way_out="give the run's folder, or leave masks out: zeros are then what is kept zero",
        )
    masks: dict[str, Tensor] = {}
    for file in files:
        try:
            masks |= unpack(load_file(file))
        except (OSError, SafetensorError) as error:
            raise damaged(file, error) from None
    return masks


class MaskKeeper:
    """Keeps the zeros of a pruned model through any further training.

    Hooks on the optimiser: before its step gradients are masked, after it the weights and every
    buffer of a weight's shape (momentum, both moments of Adam). Masked entries therefore hold
    exact zeros after each step, whatever the optimiser, its weight decay or its kernels.

    Args:
        model: the pruned model; DistributedDataParallel, torch.compile and peft's wrappers are
            looked through.
        masks: name -> booleans, True = kept; or a run's folder. Left out, the entries that are
            zero now; a layer without zeros is then not kept and trains as a dense one.
        include: shell patterns over weight names; when given, only what they match.
        exclude: shell patterns; what they match is free to become dense.

    Raises:
        SteppeError: nothing is to be kept, a mask does not fit, or a weight that the masks say
            is gone is not zero.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> with torch.no_grad(): _ = model.weight[0].zero_()
        >>> keeper = MaskKeeper(model)
        >>> optimizer = keeper.wrap(torch.optim.AdamW(model.parameters(), weight_decay=0.1))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> keeper.sparsity()
        0.5
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor] | Path | str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        if masks is None:
            self.weights, self.masks = _zeros_of(model, include, exclude)
        else:
            given = masks if isinstance(masks, Mapping) else read_masks(masks)
            self.masks = _chosen(given, include, exclude)
            self.weights = {}
            weights = named_weights(model)
            for name, mask in self.masks.items():
                if name not in weights or weights[name].shape != mask.shape:
                    shape = tuple(weights[name].shape) if name in weights else "not there"
                    raise SteppeError(
                        "every mask belongs to a weight of the model",
                        got=f"{name} {tuple(mask.shape)}, which in the model is {shape}",
                        way_out="use the masks of the run that this model was loaded from",
                    )
                self.weights[name] = weights[name]
        made = made_by_others(_bare(model))
        self.notes = [f"{d.name} is not kept: {d.why}. Way out: {d.way_out}" for d in made]
        """What could not be kept, one sentence each."""
        self._place()
        self.check()
        self._hooked: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._watched: set[int] = set()
        if hasattr(unwrap(model), "merge_and_unload"):
            self.guard(model)

    def _place(self) -> None:
        """Masks lie where their weights lie; booleans, since a mask as float costs the weight."""
        for name, weight in self.weights.items():
            if self.masks[name].device != weight.device:
                self.masks[name] = self.masks[name].to(weight.device)
        self._by_id = {id(w): self.masks[name] for name, w in self.weights.items()}

    def _pairs(self, params: Iterator[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        kept = [p for p in params if id(p) in self._by_id]
        if any(self._by_id[id(p)].device != p.device for p in kept):
            self._place()  # the model moved since
        return kept, [self._by_id[id(p)] for p in kept]

    def mask_of(self, weight: Tensor) -> Tensor | None:
        """The mask of one of the model's weights, on its device; None when it is not kept."""
        _, masks = self._pairs(iter([weight]))
        return masks[0] if masks else None

    @torch.no_grad()
    def apply(self) -> None:
        """Zero what the masks say is gone; the zeros are positive ones.

        Example:
            >>> model = nn.Linear(4, 2)
            >>> with torch.no_grad(): _ = model.weight[0].zero_()
            >>> keeper = MaskKeeper(model)
            >>> with torch.no_grad(): _ = model.weight.add_(1)
            >>> keeper.apply(); keeper.sparsity()
            0.5
        """
        _mask(*self._pairs(iter(self.weights.values())))

    def wrap(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Hook the optimiser and return it; a second time does nothing.

        Gradients are masked as soon as they are computed, so that clipping by their norm counts
        only what is trained, and once more before the step, for those set by hand.

        Args:
            optimizer: any torch optimiser; accelerate's wrapper is looked through.

        Raises:
            SteppeError: it holds none of the kept weights although they are trained.
        """
        inner: Any = optimizer
        while isinstance(getattr(inner, "optimizer", None), torch.optim.Optimizer):
            inner = inner.optimizer
        if inner in self._hooked:
            return optimizer
        optimised = {id(p) for group in inner.param_groups for p in group["params"]}
        trained = {n: w for n, w in self.weights.items() if w.requires_grad}
        if trained and not any(id(w) in optimised for w in trained.values()):
            raise SteppeError(
                "the optimiser must hold the weights whose masks are kept",
                got=f"{type(inner).__name__} without {next(iter(trained))}",
                consequence="their zeros would be lost",
                way_out="make the optimiser from the same model; FSDP's and DeepSpeed's own "
                "copies of the weights cannot be kept",
            )
        for weight in trained.values():
            if id(weight) in optimised and id(weight) not in self._watched:
                weight.register_post_accumulate_grad_hook(self._watch())
                self._watched.add(id(weight))
        inner.register_step_pre_hook(self._before)
        inner.register_step_post_hook(self._after)
        self._hooked.add(inner)
        self._clean(inner)  # it may have made steps before
        return optimizer

    def _watch(self) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            mask = self.mask_of(weight)
            if weight.grad is not None and mask is not None:
                weight.grad.mul_(mask)

        return hook

    def _params(self, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
        return (p for group in optimizer.param_groups for p in group["params"])

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params, masks = self._pairs(self._params(optimizer))
        pairs = [(p.grad, m) for p, m in zip(params, masks, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_mul_([g for g, _ in pairs], [m for _, m in pairs])

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        _mask(*self._pairs(self._params(optimizer)))
        self._clean(optimizer)

    @torch.no_grad()
    def _clean(self, optimizer: torch.optim.Optimizer) -> None:
        # by shape and not by name: every optimiser calls its buffers differently
        buffers: list[Tensor] = []
        masks: list[Tensor] = []
        for param, mask in zip(*self._pairs(self._params(optimizer)), strict=True):
            for value in optimizer.state.get(param, {}).values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    buffers.append(value)
                    masks.append(mask.to(value.device))
        if buffers:
            torch._foreach_mul_(buffers, masks)

    def sparsity(self) -> float:
        """Fraction of the kept layers' weights that is zero now."""
        total = sum(w.numel() for w in self.weights.values())
        return count_zeros(dict(self.weights)) / total

    def check(self) -> None:
        """Compare the weights with the masks.

        Raises:
            SteppeError: a weight that is masked is not zero.
        """
        self._place()
        for name, weight in self.weights.items():
            wrong = int((weight.detach() != 0).logical_and_(~self.masks[name]).sum())
            if wrong:
                raise SteppeError(
                    "masked weights must be zero",
                    got=f"{wrong} of {weight.numel()} in {name} that are not",
                    consequence="the model is not the sparse one that the masks describe",
                    way_out="keeper.wrap(optimizer) before training, or masks of this model; "
                    "steppe.core.mask.apply_masks zeroes what they name",
                )

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, eight entries to a byte, as safetensors can hold them."""
        return pack(self.masks)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up masks that `state_dict` gave, for the same weights.

        Raises:
            SteppeError: they are for other weights, or the weights are not zero where they say.
        """
        masks = unpack(dict(state or {}))
        shapes = {n: tuple(w.shape) for n, w in self.weights.items()}
        given = {n: tuple(m.shape) for n, m in masks.items()}
        if shapes != given:
            wrong = sorted(n for n in {*shapes, *given} if shapes.get(n) != given.get(n))
            raise SteppeError(
                "masks are taken up by a keeper of the same weights",
                got=f"masks that differ in {', '.join(wrong[:3])}",
                way_out="make the keeper with masks=, from the folder that holds them",
            )
        before, self.masks = self.masks, masks
        try:
            self.check()
        except SteppeError:
            self.masks = before
            self._place()
            raise

    def guard(self, model: nn.Module) -> None:
        """Make peft's own merges refuse: they fill pruned entries; `merge_lora` does not.

        A model that peft wrapped before the keeper was made is guarded already.
        """

        def refuse(*_: Any, **__: Any) -> None:
            raise SteppeError(
                "adapters are merged into a pruned model under its masks",
                got="a merge that knows no masks",
                consequence="B A is dense, so every pruned weight it reaches would come back",
                way_out="steppe.llm.lora.merge_lora(model, keeper)",
            )

        for holder in (unwrap(model), getattr(unwrap(model), "base_model", None)):
            for name in _MERGES:
                if holder is not None and hasattr(holder, name):
                    object.__setattr__(holder, name, refuse)


def _mask(weights: list[Tensor], masks: list[Tensor]) -> None:
    if weights:
        torch._foreach_mul_(weights, masks)
        # -1 * False is -0.0; adding 0.0 makes it the positive zero that compresses away
        torch._foreach_add_(weights, 0.0)


def named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter as the model without wrappers and adapters calls it.

    Example:
        >>> list(named_weights(nn.Sequential(nn.Linear(2, 2, bias=False))))
        ['0.weight']
    """
    bare = _bare(model)
    return _plain(bare, dict(bare.named_parameters(remove_duplicate=False)))


def _plain(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Weights by their names before peft wrapped modules.

    Of a module that peft saves whole (``modules_to_save``) there is the copy that is trained, in
    the place of the original.
    """
    resting, copies = set(), dict[str, str]()
    for name, module in model.named_modules():
        saved = module._modules.get("modules_to_save")
        if isinstance(saved, nn.ModuleDict) and "original_module" in module._modules:
            active: Any = [a for a in getattr(module, "active_adapters", ()) if a in saved]
            used = f"modules_to_save.{active[0]}" if active else "original_module"
            copies[f"{name}.{used}."] = f"{name}."
            resting.add(f"{name}.")
    plain = {}
    for name, weight in weights.items():
        copy = next((prefix for prefix in copies if name.startswith(prefix)), None)
        if copy is not None:
            name = copies[copy] + name.removeprefix(copy)
        elif name.startswith(tuple(resting)):
            continue
        plain[plain_name(name)] = weight
    return plain


def plain_name(name: str) -> str:
    """The name of a weight before peft wrapped its module."""
    return name.replace(".base_layer.", ".")


def _bare(model: nn.Module) -> nn.Module:
    model = unwrap(model)
    base = getattr(model, "get_base_model", None)
    return unwrap(base()) if base is not None else model


def _adapters(model: nn.Module) -> list[str]:
    """Prefixes of what adapters added: beside a wrapped layer, all but the layer itself."""
    prefixes = []
    for name, module in model.named_modules():
        if isinstance(getattr(module, "base_layer", None), nn.Module):
            prefixes += [f"{name}.{child}." for child, _ in module.named_children()]
    return [prefix for prefix in prefixes if not prefix.endswith(".base_layer.")]


def _zeros_of(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str]
) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    bare = _bare(model)
    adapters = tuple(_adapters(bare))
    _, prunable_weights = prunable(bare, include, exclude)
    # a new adapter's B is all zeros and must not stay so
    own = {n: w for n, w in prunable_weights.items() if not n.startswith(adapters)}
    weights = _plain(bare, own)
    masks = {n: w.detach() != 0 for n, w in weights.items()}
    masks = {n: m for n, m in masks.items() if not bool(m.all())}
    if not masks:
        raise SteppeError(
            "there must be zeros to keep",
            got=f"{type(bare).__name__}, whose prunable weights are all non-zero",
            way_out="load a pruned model, or give its masks or its run's folder as masks=",
        )
    return {n: weights[n] for n in masks}, masks


def _chosen(
    masks: Mapping[str, Tensor], include: Sequence[str], exclude: Sequence[str]
) -> dict[str, Tensor]:
    def matches(name: str, pattern: str) -> bool:
        return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)

    for pattern in (*include, *exclude):
        if not any(matches(name, pattern) for name in masks):
            raise SteppeError(
                "a pattern must match the name of a masked weight",
                got=repr(pattern),
                way_out="names look like " + ", ".join(list(masks)[:3]),
            )
    chosen = {
        name: mask.to(torch.bool)
        for name, mask in masks.items()
        if (not include or any(matches(name, p) for p in include))
        and not any(matches(name, p) for p in exclude)
    }
    if not chosen:
        raise SteppeError("there must be masks to keep", got="none", way_out="check the patterns")
    return chosen
