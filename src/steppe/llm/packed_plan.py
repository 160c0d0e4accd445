"""What the zeros of a pruning will be worth when `steppe.load` packs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from steppe.core.layer import Layer
from steppe.sparse.choose import Question, remembered

_BIT = 1 / 8  # bytes of where a weight is kept


def packed_plan(
    layers: Sequence[Layer], zeros: Mapping[str, int], dtype: torch.dtype
) -> dict[str, Any]:
    """Bytes of the pruned matrices packed, and how fast they were when such ones were measured.

    Args:
        layers: to be pruned.
        zeros: of each, by its name.
        dtype: that the model is stored in; `steppe.load` multiplies in float32.

    Returns:
        ``bytes`` as bits and values and ``dense_bytes`` in that dtype; ``measured``, how many of
        the ``layers`` have a choice that is remembered here (`steppe.sparse.choose`), and
        ``ratio``, how many times as fast as dense ones these are together for one token, each
        dense one taking as long as its bytes; None where nothing is known.

    Example:
        >>> layer = Layer("w", (64, 64))
        >>> plan = packed_plan([layer], {"w": 2048}, torch.bfloat16)
        >>> plan["bytes"], plan["dense_bytes"]
        (4608, 8192)
    """
    size = dtype.itemsize
    packed = known = 0
    dense_time = time = 0.0
    for layer in layers:
        kept = layer.numel - zeros[layer.name]
        packed += min(round(layer.numel * _BIT) + kept * size, layer.numel * size)
        shape = (layer.rows, layer.numel // layer.rows)
        question = Question.about(shape, kept, dtype, torch.float32)
        if (choice := remembered(question)) is not None:
            known += 1
            dense_time += layer.numel
            speed = choice.speeds.get(choice.format, {"ratio": 1.0})
            time += layer.numel / speed["ratio"]
    return {
        "bytes": packed,
        "dense_bytes": sum(layer.numel for layer in layers) * size,
        "layers": len(layers),
        "measured": known,
        "ratio": dense_time / time if time else None,
    }


def packed_line(plan: dict[str, Any]) -> str:
    """The same in a sentence.

    Example:
        >>> packed_line({"bytes": 5, "dense_bytes": 8, "layers": 2, "measured": 0, "ratio": None})
        'packed by steppe.load: 5 bytes instead of 8; how fast that is here is not measured yet'
    """
    said = f"packed by steppe.load: {plan['bytes']:,} bytes instead of {plan['dense_bytes']:,}"
    if plan["ratio"] is None:
        return f"{said}; how fast that is here is not measured yet"
    some = "" if plan["measured"] == plan["layers"] else f" ({plan['measured']} of them known)"
    return f"{said}; matrices{some} {plan['ratio']:.2f} times as fast as dense for one token"
