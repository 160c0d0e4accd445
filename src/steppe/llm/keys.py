"""Which tensors of a checkpoint make which parameters of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.skeleton import quiet

_NAMED = 8
REST = -1
"""The number of what lies outside of the blocks: embeddings, last norm, head."""


class Keys:
    """A checkpoint's tensors by decoder block, and the way between them and parameters.

    Names differ: a prefix may be missing, each expert of a mixture may be a tensor of its own.
    transformers' own conversions are used in both directions. Which parameters are one is read
    from the checkpoint, as transformers does: a head that it holds is the model's, whatever the
    config says.

    Args:
        model: without weights; parameters that the checkpoint holds apart are untied in it.
        checkpoint: its weights.
        blocks: their names.

    Raises:
        SteppeError: a weight is missing or has another shape than the config says.
    """

    def __init__(self, model: Any, checkpoint: Checkpoint, blocks: list[str]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )

        self._model, self._checkpoint = model, checkpoint
        self._mapping = list(get_model_conversion_mapping(model))
        renamings = [x for x in self._mapping if isinstance(x, WeightRenaming)]
        converters = [x for x in self._mapping if isinstance(x, WeightConverter)]
        names = model.state_dict()
        self.of: dict[int, list[str]] = {i: [] for i in range(REST, len(blocks))}
        self._number = {name: i for i, name in enumerate(blocks)}
        self.extra: list[str] = []  # what the model has no place for
        self.plain: dict[str, str] = {}  # parameter -> the one tensor that it is
        self.dtype_plan: dict[str, torch.dtype] = {}  # transformers' pattern -> another dtype
        self._dtypes: dict[str, torch.dtype] = {}
        self._made_of: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}
        for key, (dtype, shape) in checkpoint.headers().items():
            name, pattern = rename_source_key(
                key, renamings, converters, model.base_model_prefix, names
            )
            if name not in names and key in names:
                name, pattern = key, None
            if name not in names:
                self.extra.append(key)
                continue
            self.of[self._block(name)].append(key)
            self._dtypes[name] = dtype
            self._made_of.setdefault(name, []).append(key)
            self._sizes[name] = self._sizes.get(name, 0) + shape.numel()
            if pattern is None and names[name].shape != shape:
                raise self._misfit(f"{key} of shape {list(shape)}, not {list(names[name].shape)}")
            if pattern is None:
                self.plain[name] = key
        # of one tensor that becomes several parameters only the first is known by name
        self._split = any(c.was_used() and len(c.target_patterns) > 1 for c in converters)
        self.ties = self._resolve_ties()
        # sinusoids of positions are computed: transformers never saves them
        ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
        self._computed = sorted((ignored & names.keys()) - self._sizes.keys() - self.ties.keys())
        self._check_sizes()

    def _block(self, name: str) -> int:
        """The number of the block that a parameter lies in, or REST."""
        while name:
            if name in self._number:
                return self._number[name]
            name = name.rpartition(".")[0]
        return REST

    def _resolve_ties(self) -> dict[str, str]:
        """Parameter -> the stored one that it is, where the config ties and the checkpoint agrees.

        As transformers: of parameters that the config ties, those that the checkpoint holds with
        other values stay apart, and those that it lacks are the one that it holds.
        """
        declared: dict[str, str] = getattr(self._model, "all_tied_weights_keys", {})
        groups: dict[str, list[str]] = {}
        for target, source in declared.items():
            groups.setdefault(source, [source]).append(target)
        ties: dict[str, str] = {}
        for group in groups.values():
            stored = [name for name in group if name in self._sizes]
            for name in group if stored else ():
                if name == stored[0]:
                    continue
                if name in stored and not self._equal(name, stored[0]):
                    declared.pop(name, None)
                else:
                    ties[name] = stored[0]
        return ties

    def _equal(self, one: str, other: str) -> bool:
        first, second = self._made_of[one], self._made_of[other]
        return len(first) == len(second) == 1 and self._checkpoint.same(first[0], second[0])

    def tie(self) -> None:
        """Tied parameters get the values of those that they are; what is not stored is computed."""
        for name in self._computed:
            value = self._model.get_parameter(name)
            if value.is_meta:
                inside, _, own = name.rpartition(".")
                module = self._model.get_submodule(inside)
                real = nn.Parameter(torch.empty(value.shape, dtype=value.dtype), False)
                setattr(module, own, real)
                self._model._init_weights(module)
        for name, source in self.ties.items():
            value = self._model.get_parameter(source)
            if not value.is_meta and self._model.get_parameter(name) is not value:
                module, _, own = name.rpartition(".")
                setattr(self._model.get_submodule(module), own, value)

    def _check_sizes(self) -> None:
        if self._split:
            return
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            made = name in self.ties or name in self._computed
            if made or self._sizes.get(name, 0) >= parameter.numel():
                continue
            head = self._model.get_output_embeddings()
            if name not in self._sizes and head is not None and parameter is head.weight:
                raise SteppeError(
                    "a model folder must hold the output head, unless it is the embedding",
                    got=f"no {name} in {self._checkpoint.folder}, whose config.json says "
                    "tie_word_embeddings: false",
                    consequence="in its place there would be random numbers",
                    way_out='write "tie_word_embeddings": true in config.json if the head is the '
                    "embedding, or download the model again",
                )
            raise self._misfit(f"too little for {name}" if name in self._sizes else f"no {name}")

    def _misfit(self, got: str) -> SteppeError:
        return SteppeError(
            "a model folder must hold every weight, in the shape of its config.json",
            got=f"{got}, in {self._checkpoint.folder}",
            way_out="download it again, or save it with transformers' save_pretrained",
        )

    def keys_of(self, names: Iterable[str]) -> set[str]:
        """The checkpoint's tensors that these parameters are made of, those of a tie included."""
        return {key for n in names for key in self._made_of.get(self.ties.get(n, n), ())}

    def unused(self) -> list[str]:
        """What the checkpoint holds and the model does not, in words for a record.

        Example: a layer beyond the configured count, that predicts a token further on.
        """
        groups: dict[str, int] = {}
        for key in self.extra:
            numbers = [m.end() for m in re.finditer(r"\.\d+(?=\.)", key)]
            place = key[: numbers[0]] if numbers else key
            groups[place] = groups.get(place, 0) + 1
        said = [f"{place} ({n} tensors)" if n > 1 else place for place, n in groups.items()]
        more = [f"{len(said) - _NAMED} more"] if len(said) > _NAMED else []
        return [*said[:_NAMED], *more]

    def dtype(self, name: str) -> torch.dtype:
        """A parameter's stored dtype: one model may hold several."""
        if name in self._dtypes:
            return self._dtypes[name]
        kinds = [d for d in self._dtypes.values() if d.is_floating_point]
        return max(set(kinds), key=kinds.count)

    def fill(self, keys: list[str], dtype: torch.dtype) -> None:
        """Read some of the checkpoint's tensors into the model."""
        self.take(self._checkpoint.read(keys), dtype)

    def take(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
        """Tensors under the checkpoint's names become the model's parameters."""
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        plan = LoadStateDictConfig(
            weight_mapping=list(self._mapping),
            device_map={"": "cpu"},
            dtype=dtype,
            dtype_plan=self.dtype_plan,
        )
        with quiet():
            convert_and_load_state_dict_in_model(self._model, tensors, plan)

    def check_filled(self, tensors: dict[str, Tensor]) -> None:
        """Parameters that should have been read; conversions that failed left them empty.

        Raises:
            SteppeError: by the first one's name.
        """
        for name, tensor in tensors.items():
            if tensor.is_meta:
                raise self._misfit(f"no {name}")

    @torch.no_grad()
    def written(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameters under the checkpoint's names, in their stored dtypes."""
        from transformers.core_model_loading import revert_weight_conversion

        own = {
            name: tensor.to(self.dtype(name)) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
        converted: dict[str, Tensor] = revert_weight_conversion(self._model, own)
        return converted

    def replaced(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`written`, of those that the checkpoint holds; of tied ones each that it holds."""
        return self.written({n: t for n, t in trained.items() if n in self._made_of})
