"""Which class a folder's model is of, and which of its modules are its decoder blocks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.prunable import Selection

OWN_LOOP = (
    "load it with transformers and prune it in a loop of your own: "
    "steppe.sparsify(model, optimizer, method, total_steps)"
)
"""The way out for models that text alone does not run."""
_DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
    "num_encoder_layers",
    "encoder_num_layers",
    "decoder_num_layers",
)


def class_of(config: Any, architectures: list[str]) -> Any:
    """The class of transformers that a folder's model is of.

    Args:
        config: of transformers.
        architectures: class names that the folder's config.json gives.

    Raises:
        SteppeError: transformers has none, or it does not run on token ids.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    known = set(causal.values())
    if config.model_type in causal and (
        not architectures or any(name in known for name in architectures)
    ):
        return transformers.AutoModelForCausalLM
    for name in architectures:
        kind: Any = getattr(transformers, name, None)
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            continue
        if _main_input(kind) != "input_ids":
            raise SteppeError(
                "blockwise pruning runs the model on text",
                got=f"{name}, which takes {_main_input(kind)}",
                way_out=OWN_LOOP,
            )
        return kind
    raise SteppeError(
        "blockwise pruning takes models that transformers knows and text runs",
        got=", ".join(architectures) or f"model type {config.model_type}",
        way_out=OWN_LOOP,
    )


def class_in(folder: Path | str) -> Any:
    """The class of transformers that a folder's model is of.

    Args:
        folder: with a config.json.

    Raises:
        SteppeError: transformers has none, or it does not run on token ids.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return class_of(config, config.architectures or [])


def _main_input(kind: Any) -> str:
    return str(kind.main_input_name)


def answers_in_tokens(model: Any) -> bool:
    """Whether a model predicts each next token of a text, so that it has a perplexity."""
    from transformers.models.auto import modeling_auto as auto

    names = {
        *auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(),
    }
    return type(model).__name__ in names and not model.config.is_encoder_decoder


def arguments(model: Any, ids: Tensor) -> dict[str, Any]:
    """What a model is called with to run on token ids; an encoder and a decoder both get them."""
    known = inspect.signature(model.forward).parameters
    given: dict[str, Any] = {"input_ids": ids}
    if "use_cache" in known or answers_in_tokens(model):
        given["use_cache"] = False
    if "decoder_input_ids" in known:
        given["decoder_input_ids"] = ids
    return given


def block_names(model: Any) -> list[str]:
    """Names of a model's blocks, in the order in which they should run.

    They are the elements of the lists that are as long as the config of the text says; lists
    beside each other (attention here, feed-forward there) take turns, lists of different parts
    (encoder, decoder) follow each other. Towers for images and sound are no part of it.

    Raises:
        SteppeError: there are none, or blocks share their weights.
    """
    lists = _lists(model)
    chosen = {name: module for name, module in lists.items() if len(module) in _depths(model)}
    if not chosen:
        depths = " or ".join(str(d) for d in sorted(_depths(model)))
        raise SteppeError(
            "a causal language model has a list of decoder blocks",
            got=f"none of {depths or 'a known number of'} modules in {type(model).__name__}",
            way_out=OWN_LOOP,
        )
    by_parent: dict[str, list[str]] = {}
    for name in chosen:
        by_parent.setdefault(name.rpartition(".")[0], []).append(name)
    names = []
    for beside in by_parent.values():
        depth = max(len(chosen[name]) for name in beside)
        names += [f"{n}.{i}" for i in range(depth) for n in beside if i < len(chosen[n])]
    _check_apart(model, names)
    return names


def other_lists(model: Any, names: list[str]) -> list[str]:
    """Lists of modules with prunable layers that are none of the blocks: they stay dense."""
    return [n for n in _lists(model) if f"{n}.0" not in names]


def _depths(model: Any) -> set[int]:
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in _DEPTHS)
    return {depth for depth in named if isinstance(depth, int) and depth > 0}


def _lists(model: Any) -> dict[str, nn.ModuleList]:
    """The outermost lists of modules of the text part that hold layers with matrices."""
    return dict(_walk(model, "", {type(model.config), type(model.config.get_text_config())}))


def _walk(module: nn.Module, name: str, kinds: set[type]) -> Iterator[tuple[str, nn.ModuleList]]:
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel) and type(module.config) not in kinds:
        return  # a tower for images or sound
    if isinstance(module, nn.ModuleList):
        # a row of bare layers (projections, embeddings) is no row of blocks
        if any(True for block in module for _ in block.children()) and _has_matrices(module):
            yield name, module
        return
    for child_name, child in module.named_children():
        yield from _walk(child, f"{name}.{child_name}" if name else child_name, kinds)


def _has_matrices(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters())


def _check_apart(model: Any, names: list[str]) -> None:
    owner: dict[int, str] = {}
    for name in names:
        for parameter_name, p in model.get_submodule(name).named_parameters():
            if owner.setdefault(id(p), name) != name:
                raise _shared(f"{parameter_name} in both {owner[id(p)]} and {name}")
    declared: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    for one, other in declared.items():
        ends = [next((n for n in names if x.startswith(f"{n}.")), "") for x in (one, other)]
        if all(ends) and ends[0] != ends[1]:
            raise _shared(f"{other}, which is {one} too")


def _shared(got: str) -> SteppeError:
    return SteppeError(
        "each block must have its own weights",
        got=got,
        consequence="pruned in the one block, they would change the other",
        way_out=OWN_LOOP,
    )


def dense_in(chosen: Selection, blocks: Sequence[str]) -> dict[str, str]:
    """Patterns of weights inside of blocks that stay dense by their kind, with the reasons.

    Args:
        chosen: what of the model is prunable.
        blocks: names of the blocks.
    """
    why = {d.name: d.why for d in chosen.dense if d.way_out}
    why |= {x.name: "calibration does not see its inputs" for x in chosen.layers if not x.plain}
    return {
        f"{block.rpartition('.')[0]}.*.{name.removeprefix(block + '.')}": f"dense, {reason}"
        for block in blocks
        for name, reason in why.items()
        if name.startswith(f"{block}.")
    }
