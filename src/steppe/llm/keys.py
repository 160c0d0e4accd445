"""Which tensors of a checkpoint make which parameters of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.skeleton import quiet

REST = -1
"""The number of what lies outside of the blocks: embeddings, last norm, head."""


class Keys:
    """A checkpoint's tensors by decoder block, and the way between them and parameters.

    Names differ: a prefix may be missing, each expert of a mixture may be a tensor of its own.
    transformers' own conversions are used in both directions.

    Args:
        model: without weights.
        checkpoint: its weights.
        prefix: name of the list of blocks.
        count: how many there are.

    Raises:
        SteppeError: a weight is missing or has another shape than the config says.
    """

    def __init__(self, model: Any, checkpoint: Checkpoint, prefix: str, count: int) -> None:
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
        self.of: dict[int, list[str]] = {i: [] for i in range(REST, count)}
        self._dtypes: dict[str, torch.dtype] = {}
        sizes: dict[str, int] = {}
        for key, (dtype, shape) in checkpoint.headers().items():
            name, pattern = rename_source_key(
                key, renamings, converters, model.base_model_prefix, names
            )
            inside = name.startswith(f"{prefix}.")
            number = name.removeprefix(f"{prefix}.").split(".")[0] if inside else ""
            self.of[int(number) if number.isdigit() else REST].append(key)
            self._dtypes[name] = dtype
            sizes[name] = sizes.get(name, 0) + shape.numel()
            if pattern is None and name in names and names[name].shape != shape:
                raise self._misfit(f"{key} of shape {list(shape)}, not {list(names[name].shape)}")
        # of one tensor that becomes several parameters only the first is known by name
        if not any(c.was_used() and len(c.target_patterns) > 1 for c in converters):
            self._check_sizes(sizes)

    def _check_sizes(self, sizes: dict[str, int]) -> None:
        tied = getattr(self._model, "all_tied_weights_keys", {})
        for name, parameter in self._model.named_parameters():
            if name not in tied and sizes.get(name, 0) < parameter.numel():
                raise self._misfit(f"too little for {name}" if name in sizes else f"no {name}")

    def _misfit(self, got: str) -> SteppeError:
        return SteppeError(
            "a model folder must hold every weight, in the shape of its config.json",
            got=f"{got}, in {self._checkpoint.folder}",
            way_out="download it again, or save it with transformers' save_pretrained",
        )

    def dtype(self, name: str) -> torch.dtype:
        """A parameter's stored dtype: one model may hold several."""
        if name in self._dtypes:
            return self._dtypes[name]
        kinds = [d for d in self._dtypes.values() if d.is_floating_point]
        return max(set(kinds), key=kinds.count)

    def fill(self, keys: list[str], dtype: torch.dtype) -> None:
        """Read some of the checkpoint's tensors into the model."""
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        plan = LoadStateDictConfig(
            weight_mapping=list(self._mapping), device_map={"": "cpu"}, dtype=dtype
        )
        with quiet():
            convert_and_load_state_dict_in_model(self._model, self._checkpoint.read(keys), plan)

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
