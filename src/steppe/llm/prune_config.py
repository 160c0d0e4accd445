"""What a pruning of a language model may be asked for: one declaration, validated."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor

from steppe.core.errors import SteppeError, unknown
from steppe.core.part import typed
from steppe.core.seed import Seed
from steppe.engine.blockwise.config import ReconstructionConfig

_FORMER = {"fit": "reconstruction"}


class PruneConfig(BaseModel):
    """Everything about a pruning but the model and the method.

    `steppe.prune` takes these fields as keywords; the options of ``steppe prune`` and ``steppe
    plan`` are made from them, with their descriptions as help. `PruneConfig.of` raises SteppeError
    where the class itself raises pydantic's error.

    Example:
        >>> PruneConfig.of(samples=16, reconstruction={"epochs": 3}).reconstruction.epochs
        3
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    calibration: str | Path | Tensor | None = Field(
        None,
        description="text file, folder, dataset id, .safetensors of token ids, or self: windows "
        "that the dense model writes, self[:temperature[:top_k[:samples[:prompt]]]]",
    )
    samples: int = Field(128, description="calibration windows")
    window: int | None = Field(None, description="tokens in a window [2048 or the model's]")
    whole_text: bool = Field(
        False, description="tokenise a calibration text of more than 2 MiB whole, as it once was"
    )
    evaluate: tuple[str | Path, ...] = Field((), description="text to measure perplexity on")
    remember: bool = Field(
        True, description="keep the dense model's perplexity, by content, for its next pruning"
    )
    evaluate_window: int | None = Field(None, description="its windows [--window]")
    out: Path = Field(Path("pruned"), description="the new folder")
    reconstruction: ReconstructionConfig = Field(
        default_factory=ReconstructionConfig, description="how blocks are optimised, by SAFE, ADMM"
    )
    precision: str = Field("auto", description="of optimisation: auto, float32, bfloat16")
    micro_batch: int = Field(8, description="windows that go through a block together")
    measure: int = Field(8, description="windows on which layer errors are measured")
    include: tuple[str, ...] = Field((), description="pattern of what to prune")
    exclude: tuple[str, ...] = Field((), description="pattern of what stays dense")
    regrow: bool = Field(False, description="let weights that are zero already come back")
    streamed: Literal["auto", "always", "never"] = Field(
        "auto", description="one block in memory at a time: auto, always, or never (whole model)"
    )
    recover: bool = Field(False, description="then train what is left, as steppe recover does")
    family: str | None = Field(
        None,
        description="write a model without some units as another that computes the same, e.g. a "
        "Llama as mistral, which may have any number of heads",
    )
    seed: Seed = Field(0, description="of the windows and their order")
    device: str | None = Field(None, description="cpu, cuda, ... [a GPU if there is one]")
    verb: ClassVar[str] = "prune"

    @field_validator("reconstruction", mode="before")
    @classmethod
    def _as_mapping(cls, value: Any) -> Any:
        """``{"epochs": 3}`` means a `ReconstructionConfig` with 3 epochs."""
        if not isinstance(value, Mapping):
            return value
        known = ReconstructionConfig.__dataclass_fields__
        for key in value:
            if key not in known:
                raise unknown("option of the reconstruction", key, known)
            typed("the reconstruction", key, str(known[key].type), value[key])
        return ReconstructionConfig(**value)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """The configuration with these options.

        Args:
            options: fields by name; also ``fit``, the former name of ``reconstruction``.

        Raises:
            SteppeError: an option is not known (with the nearest), or of the wrong type.
        """
        for former, name in _FORMER.items():
            if former in options:
                warnings.warn(f"{former}= is called {name}= now", DeprecationWarning, stacklevel=3)
                options[name] = options.pop(former) or ReconstructionConfig()
        try:
            return cls(**options)
        except ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, SteppeError):
                raise cause from None
            option = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise unknown(f"option of {cls.verb}", option, cls.model_fields) from None
            raise SteppeError(
                f"option {option} of {cls.verb} must have its type",
                got=f"{first['input']!r} ({first['msg']})",
            ) from None
