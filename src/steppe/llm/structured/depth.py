"""Whole decoder blocks gone from a model and its config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.llm.architecture import block_names
from steppe.llm.model import StreamedModel
from steppe.llm.skeleton import config_of, patched, skeleton
from steppe.llm.structured.block_config import shorten


def number_of(name: str) -> int:
    """A block's place in its list, from its name.

    Example:
        >>> number_of("model.layers.3")
        3
    """
    return int(name.rpartition(".")[2])


def may_go(
    model: StreamedModel, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> list[str]:
    """Blocks of which no pattern leaves a part out; only such go whole.

    Args:
        model: whose blocks they are.
        include, exclude: see `StreamedModel.layers`.

    Raises:
        SteppeError: there is none.
    """
    chosen = {layer.name for layer in model.layers(include, exclude)}
    layers = model.layers()
    only_parts = {layer.block for layer in layers if layer.name not in chosen}
    found = [n for n in model.names if n in {x.block for x in layers} - only_parts]
    if not found:
        raise SteppeError(
            "a block goes whole, if no pattern leaves a part of it out",
            got=f"no block of {len(model)} that may",
            way_out=f"--exclude '{model.names[0]}.*' for a block that shall stay, or no pattern",
        )
    return found


def drop_blocks(model: Any, names: Sequence[str]) -> None:
    """Take decoder blocks out of a model of transformers, in place; its config says so.

    Args:
        model: whose blocks lie in one list.
        names: of the blocks that go.
    """
    if not names:
        return
    place = names[0].rpartition(".")[0]
    blocks = model.get_submodule(place)
    gone = {number_of(name) for name in names}
    above, _, last = place.rpartition(".")
    kept = nn.ModuleList(b for i, b in enumerate(blocks) if i not in gone)
    setattr(model.get_submodule(above), last, kept)
    shorten(model.config.get_text_config(), len(blocks), gone)


def misplaced(config: dict[str, Any], names: Sequence[str], dtype: torch.dtype) -> str:
    """Why a config without some blocks would make something else of those that stay; "" if not.

    Args:
        config: of the whole model, as ``config.json`` has it.
        names: of the blocks that go.
        dtype: of the weights.
    """
    model = skeleton(config_of(config), dtype)
    stay = [name for name in block_names(model) if name not in names]
    place = stay[0].rpartition(".")[0]
    drop_blocks(model, names)
    try:
        fresh = skeleton(config_of(model.config.to_dict()), dtype)
    except Exception as error:  # configurations refuse in many ways
        return f"its config refuses: {str(error).strip().splitlines()[-1][:200]}"
    for new, name in enumerate(stay):
        made = fresh.get_submodule(f"{place}.{new}")
        old = model.get_submodule(f"{place}.{new}")
        where = _difference(old, number_of(name), made, new)
        if where:
            return f"its config cannot say of {name} {where}"
    old_shapes, new_shapes = (
        {n: t.shape for n, t in m.state_dict().items()} for m in (model, fresh)
    )
    other = sorted(n for n, _ in old_shapes.items() ^ new_shapes.items())
    return f"its config cannot say the shape of {other[0]}" if other else ""


def kinds_of(model: Any, names: Sequence[str]) -> list[list[str]]:
    """The blocks of a model in groups that are made alike.

    Args:
        model: of transformers.
        names: of its blocks.
    """
    groups: list[list[str]] = []
    for name in names:
        block, number = model.get_submodule(name), number_of(name)
        for group in groups:
            first = group[0]
            if not _difference(model.get_submodule(first), number_of(first), block, number):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _difference(one: nn.Module, number: int, other: nn.Module, place: int) -> str:
    """What two blocks are not alike in: modules, shapes, buffers, values but their own numbers."""
    first, second = list(_said(one, number)), list(_said(other, place))
    told = dict(first)
    for name, value in second:
        if name not in told or told[name] != value:
            return f"what {name} is"
    return "" if len(first) == len(second) else "what it is made of"


def _said(block: nn.Module, number: int) -> Iterator[tuple[str, Any]]:
    for name, module in block.named_modules():
        yield name or "the block", type(module)
        for key, value in vars(module).items():
            if isinstance(value, int | float | str | None) and not key.startswith("_"):
                own = type(value) is int and value == number and "layer" in key
                yield f"{name}.{key}".strip("."), "its number" if own else value
        for key, p in module._parameters.items():
            yield f"{name}.{key}".strip("."), None if p is None else p.shape
        for key, b in module._buffers.items():  # real in a skeleton: slopes, frequencies
            yield f"{name}.{key}".strip("."), None if b is None else (b.shape, b.tolist())


def passing_by(model: StreamedModel, names: Sequence[str]) -> AbstractContextManager[Any]:
    """While it is entered, some blocks of a model give what they get.

    They still compute, so that they return it in the form in which they return anything.

    Args:
        model: the blocks' own.
        names: of the blocks.
    """
    places = [i for i, name in enumerate(model.names) if name in names]
    return patched({i: _passing_by(model.blocks[i]) for i in places}, model.blocks)


def _passing_by(block: nn.Module) -> Callable[..., Any]:
    forward: Callable[..., Any] = type(block).forward

    def run(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        returned = forward(block, *args, **kwargs)
        if isinstance(returned, Tensor):
            return hidden
        return type(returned)([hidden, *returned[1:]])

    return run
