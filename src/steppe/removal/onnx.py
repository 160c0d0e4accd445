"""The removed network for other runtimes: written as ONNX, checked and timed there."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.core.serialization import atomic
from steppe.engine.model_latency import turns_ms
from steppe.removal.graph import call

TOLERANCE = 1e-4  # other kernels add in another order


def write_onnx(
    model: nn.Module, example: Tensor, path: str | Path, repeats: int = 15
) -> dict[str, Any]:
    """Write a network as ONNX and run it in onnxruntime beside torch, in turns.

    Args:
        model: on the CPU; exported in eval mode.
        example: inputs ``[n, ...]``; any batch size can be used later.
        path: the file; it is there only if the check held.
        repeats: of the timing.

    Returns:
        ``error``: largest difference as a share of the largest output; ``torch_ms`` and
        ``onnxruntime_ms``: medians for the example's batch, with torch's number of threads;
        ``threads``; ``bytes``.

    Raises:
        SteppeError: onnx, onnxscript or onnxruntime is missing; outputs differ by more than 1e-4.
    """
    runtime = require("onnxruntime", install="'steppe[onnx]'", purpose="ONNX export")
    require("onnxscript", install="'steppe[onnx]'", purpose="ONNX export")
    model = model.eval()
    with torch.no_grad():
        expected = _plain(call(model, example))
    path = Path(path)
    with atomic(path) as written:
        _export(model, example, written)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(
            str(written), options, providers=["CPUExecutionProvider"]
        )
        given = {"input": example.numpy()}
        found = torch.from_numpy(session.run(None, given)[0])
        error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not error <= TOLERANCE:
            raise SteppeError(
                "the exported network must compute the same",
                got=f"outputs that differ by {error:.1e} of the largest",
                consequence="nothing was written",
            )
        with torch.no_grad():
            works = [partial(call, model, example), partial(session.run, None, given)]
            ours, theirs = turns_ms(works, repeats)
    return {
        "error": error,
        "torch_ms": ours,
        "onnxruntime_ms": theirs,
        "threads": torch.get_num_threads(),
        "bytes": path.stat().st_size,
    }


def _export(model: nn.Module, example: Tensor, path: Path) -> None:
    # the exporter tells of operators of libraries that are not here
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.onnx.export(
                _Plain(model).eval(),
                (example,),
                str(path),
                dynamo=True,
                external_data=False,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    finally:
        log.setLevel(level)


class _Plain(nn.Module):
    """The network with a tensor for an answer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return _plain(self.model(x))


def _plain(output: Any) -> Tensor:
    found = getattr(output, "logits", output)
    tensor: Tensor = found[0] if isinstance(found, tuple | list) else found
    return tensor
