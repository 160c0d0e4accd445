"""A language model as ONNX: token ids in, logits out, compared in onnxruntime."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.llm.export import EXPORTS, Exported, OutFolder, side_files
from steppe.llm.load import load_dense
from steppe.removal.onnx import TOLERANCE, quiet_exporter

FILE, WEIGHTS = "model.onnx", "model.onnx.data"
INPUT, OUTPUT = "input_ids", "logits"
_EXAMPLE = (2, 16)
_TRIED = ((1, 1), (1, 7), (3, 24))
"""Batches and lengths at which both are compared: others than the example's."""


@EXPORTS.register("onnx")
def to_onnx(run: Path, out: Path) -> Exported:
    """Write a model's forward pass without a cache, in float32, and run it in onnxruntime.

    Args:
        run: folder of the pruned model, or of its compact export.
        out: folder to write.

    Raises:
        SteppeError: torch's exporter cannot follow the model, or the logits differ.
    """
    runtime = require("onnxruntime", install="'steppe[onnx]'", purpose="ONNX export")
    require("onnxscript", install="'steppe[onnx]'", purpose="ONNX export")
    folder = OutFolder(run, out, "onnx")
    model = load_dense(run, "cpu", "float32")
    model.set_attn_implementation("eager")  # in operators that every runtime knows
    files = side_files(run)
    folder.claim([FILE, WEIGHTS, *files])
    with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as scratch:
        written = Path(scratch) / FILE  # the file names its weights, so both have their last names
        _export(model, written)
        error = _difference(runtime, model, written)
        for name in (WEIGHTS, FILE):
            os.replace(written.with_name(name), out / name)
    for name in files:
        folder.copy(name)
    size = sum((out / name).stat().st_size for name in (FILE, WEIGHTS))
    record = folder.finish({"bytes": size, "dtype": "float32", "error": error})
    lines = [
        f"{FILE} and {WEIGHTS}: {size} bytes, float32; {INPUT} [batch, tokens] -> {OUTPUT}, "
        "no cache",
        f"onnxruntime's logits differ by at most {error:.1e} of the largest, at other batches and "
        "lengths than the exporter saw",
    ]
    return Exported(record=record, lines=lines)


class _Logits(nn.Module):
    """A causal language model as token ids -> logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


def _ids(model: Any, shape: tuple[int, int]) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(model.config.get_text_config().vocab_size, shape, generator=draw)


def _export(model: Any, path: Path) -> None:
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    try:
        with quiet_exporter():
            torch.onnx.export(
                _Logits(model).eval(),
                (_ids(model, _EXAMPLE),),
                str(path),
                dynamo=True,
                external_data=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: sizes},
                verbose=False,
            )
    except Exception as error:  # the exporter fails in many ways
        raise SteppeError(
            "torch's ONNX exporter must be able to follow a model",
            got=f"{type(model).__name__} ({type(error).__name__})",
            consequence="nothing was written",
            way_out="--to gguf, or the folder itself, which plain transformers loads",
        ) from error


@torch.no_grad()
def _difference(runtime: Any, model: Any, path: Path) -> float:
    """Of the logits, as a share of the largest.

    Raises:
        SteppeError: it is more than rounding.
    """
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    error = 0.0
    for shape in _TRIED:
        tokens = _ids(model, shape)
        expected = model(tokens).logits
        (logits,) = session.run([OUTPUT], {INPUT: tokens.numpy()})
        away = (torch.from_numpy(logits) - expected).abs().max() / expected.abs().max()
        error = max(error, float(away))
    if not error <= TOLERANCE:
        raise SteppeError(
            "the exported model must compute the same",
            got=f"logits that differ by {error:.1e} of the largest",
            consequence="nothing was written",
        )
    return error
