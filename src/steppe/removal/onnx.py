"""The smaller network for other runtimes: written as ONNX, checked and timed there."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.core.serialization import atomic
from steppe.engine.model_latency import TURNS, in_turns
from steppe.removal.forward import call

TOLERANCE = 1e-4  # other kernels add in another order


def write_onnx(
    model: nn.Module, example: Tensor, path: str | Path, repeats: int = TURNS
) -> dict[str, Any]:
    """Write a network as ONNX and run it in onnxruntime and in torch, taking turns.

    Args:
        model: on the CPU; exported in eval mode.
        example: inputs ``[n, ...]``; any batch size can be used later.
        path: the file; it is written only if the outputs agree.
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
        expected = _first_tensor(call(model, example))
    path = Path(path)
    with atomic(path) as written:
        _export(model, example, written)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(
            str(written), options, providers=["CPUExecutionProvider"]
        )
        feed = {"input": example.numpy()}
        outputs = torch.from_numpy(session.run(None, feed)[0])
        error = float((outputs - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not error <= TOLERANCE:
            raise SteppeError(
                "the exported network must compute the same",
                got=f"outputs that differ by {error:.1e} of the largest",
                consequence="nothing was written",
            )
        with torch.no_grad():
            calls = [partial(call, model, example), partial(session.run, None, feed)]
            torch_ms, onnxruntime_ms = (median(own) for own in in_turns(calls, repeats))
    return {
        "error": error,
        "torch_ms": torch_ms,
        "onnxruntime_ms": onnxruntime_ms,
        "threads": torch.get_num_threads(),
        "bytes": path.stat().st_size,
    }


def _export(model: nn.Module, example: Tensor, path: Path) -> None:
    with quiet_exporter():
        torch.onnx.export(
            _TensorOutput(model).eval(),
            (example,),
            str(path),
            dynamo=True,
            external_data=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            verbose=False,
        )


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Torch's exporter without what it logs of operators of libraries that are not installed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.setLevel(level)


class _TensorOutput(nn.Module):
    """A network whose output is one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return _first_tensor(self.model(x))


def _first_tensor(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    tensor: Tensor = logits[0] if isinstance(logits, tuple | list) else logits
    return tensor
