"""The keys of ``record.json``, their types and units."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
"""Raised by one when a key changes its name, type, unit or meaning; a new key does not raise it."""


class Measured(BaseModel):
    """What was measured of one network: ``dense`` or ``sparse``. Each key may be missing.

    Example:
        >>> Measured(accuracy=0.97, parameters=1000, nonzero=50).accuracy
        0.97
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    accuracy: float | None = Field(None, description="share of test examples answered right")
    map: float | None = Field(
        None, description="of a detector, mean average precision over the overlaps 0.5 to 0.95"
    )
    map50: float | None = Field(
        None, description="of a detector, mean average precision at the overlap 0.5"
    )
    loss: float | None = Field(None, description="mean cross entropy")
    perplexity: float | None = Field(None, description="of a language model, on the first text")
    parameters: int | None = Field(None, description="number of parameters")
    nonzero: int | None = Field(None, description="of these, not zero")
    bytes: int | None = Field(None, description="as stored, zeros included")
    bytes_packed: int | None = Field(None, description="with a bit mask and the nonzero weights")
    latency_ms: float | None = Field(None, description="one input, milliseconds")
    latency_ms_64: float | None = Field(None, description="64 inputs, milliseconds")
    flops: float | None = Field(None, description="multiply-adds of one input")


class RunRecord(BaseModel):
    """A run. Every key is there in what steppe writes; each kind of run adds keys of its own.

    Example:
        >>> RunRecord.model_fields["sparsity_reached"].description
        'fraction of the prunable weights that is zero'
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    schema_version: int = Field(description="of this schema; records without it are older")
    method: str = Field(description="name of the method in code and on the command line")
    method_display: str = Field(description="name of the method in a report")
    recipe: dict[str, Any] = Field(description="everything that decides the result")
    sparsity_asked: float | None = Field(description="fraction asked for; null where none was")
    sparsity_reached: float = Field(description="fraction of the prunable weights that is zero")
    sparsity_of_all: float | None = Field(
        None,
        description="zeros as a fraction of all parameters: of a language model all, "
        "else those of the prunable weights",
    )
    sparsity_before: float | None = Field(
        None, description="fraction of them that was zero before the run, where it was counted"
    )
    dense: Measured = Field(description="the network before pruning")
    sparse: Measured = Field(description="the network after pruning")
    seconds: float = Field(description="of the whole run")
    peak_memory_bytes: int = Field(description="highest memory use of the process or of the GPU")
    seed: int = Field(description="of the run")
    versions: dict[str, str] = Field(description="package to version, and the machine")
    fallbacks: list[str] = Field(description="where the run could not do what was asked")
    speed: dict[str, Any] | None = Field(
        None, description="times in paired turns, bounds of the ratio, and whether it is faster"
    )
    label: str | None = Field(None, description="shown instead of the method's name, if given")


def schema_table() -> str:
    """The schema as a table in Markdown, for the documentation.

    Example:
        >>> print(schema_table().splitlines()[2])
        | `schema_version` | int | of this schema; records without it are older |
    """
    lines = ["| key | type | meaning |", "|---|---|---|"]
    for name, field in RunRecord.model_fields.items():
        lines.append(f"| `{name}` | {_type(field.annotation)} | {field.description} |")
        if name == "sparse":
            lines += [
                f"| `dense.{key}`, `sparse.{key}` | {_type(own.annotation)} | {own.description} |"
                for key, own in Measured.model_fields.items()
            ]
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    """A type as JSON knows it, in Python's words."""
    if annotation is Measured:
        return "object"
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    plain = text.replace("typing.", "").replace(" | ", " or ").replace("None", "null")
    return plain.replace("dict[str, Any]", "object")
