"""2:4 weights on GPUs that have kernels for them, where these measure faster than dense ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.core.prunable import prunable
from steppe.core.serialization import read_json, write_text
from steppe.core.speed import Speed
from steppe.llm.architecture import class_in
from steppe.llm.export import EXPORTS, Exported, OutFolder, side_files

PLAN = "semi_structured.json"
# Half precision has 8 to 11 bits; the order of sums may cost a few of them, a wrong kernel all.
TOLERANCE = 2**-5
_HALF = (torch.float16, torch.bfloat16)
_DAMPEN = 256 * 2**20  # bytes, more than any GPU's L2 holds


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What measures and what converts; a test gives its own.

    Args:
        name: the device as it calls itself; a plan holds for this one.
        device: where weights go.
        convert: a dense 2:4 weight [outputs, inputs] -> what takes its place in a Linear.
        turns: two calls without arguments -> milliseconds of each, in pairs.
    """

    name: str
    device: torch.device
    convert: Callable[[Tensor], Tensor]
    turns: Callable[[Callable[[], Any], Callable[[], Any]], list[tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One layer: whether it is used sparse, and why or why not.

    Args:
        name: the weight's name in the model.
        shape: [outputs, inputs].
        keep: True when it is used as a sparse tensor.
        reason: in words.
        dense_ms: median per number of tokens; empty when it was not measured.
        sparse_ms: the same of the sparse tensor.
        low: lower bound of how many times as fast it is, per number of tokens.
        difference: largest difference of the outputs over the largest dense output.
    """

    name: str
    shape: tuple[int, ...]
    keep: bool
    reason: str
    dense_ms: tuple[float, ...] = ()
    sparse_ms: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    difference: float = 0.0


def hardware(device: str = "cuda") -> Hardware:
    """The GPU with 2:4 kernels of that name.

    Raises:
        SteppeError: it is none.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SteppeError(
            "the device must exist", got=repr(device), way_out="--device cuda"
        ) from error
    capability = (0, 0)
    count = torch.cuda.device_count() if chosen.type == "cuda" else 0
    if (chosen.index or 0) < count:
        capability = torch.cuda.get_device_capability(chosen)
    if capability < (8, 0):
        got = f"{device!r}, which is not there"
        if chosen.type != "cuda":
            got = f"{device!r}"
        elif capability != (0, 0):
            got = f"{device!r} of capability {capability[0]}.{capability[1]}"
        raise SteppeError(
            "2:4 weights are faster only on GPUs with kernels for them, from compute capability "
            "8.0 on",
            got=got,
            consequence="here they would be multiplied as dense ones, so there is no gain",
            way_out="run this on such a GPU, or --to compact to save space",
        )
    from torch.sparse import to_sparse_semi_structured

    return Hardware(
        name=torch.cuda.get_device_name(chosen),
        device=chosen,
        convert=to_sparse_semi_structured,
        turns=lambda dense, sparse: _cuda_turns((dense, sparse), chosen),
    )


def _cuda_turns(
    calls: tuple[Callable[[], Any], Callable[[], Any]], device: torch.device, repeats: int = 30
) -> list[tuple[float, float]]:
    def once(call: Callable[[], Any]) -> float:
        other.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    with torch.cuda.device(device):
        # in a model other layers' weights pass between two uses of this one, so that it comes
        # from memory and not from the cache
        other = torch.empty(_DAMPEN, dtype=torch.int8, device=device)
        for call in calls * 5:
            call()
        pairs = []
        for turn in range(repeats):  # every other one the other way round
            first = turn % 2
            times = {i: once(calls[i]) for i in (first, 1 - first)}
            pairs.append((times[0], times[1]))
        return pairs


def is_two_four(weight: Tensor) -> bool:
    """Whether of every four consecutive inputs at least two are zero.

    Args:
        weight: [outputs, inputs].

    Example:
        >>> is_two_four(torch.tensor([[1.0, 0.0, 0.0, 2.0]]))
        True
        >>> is_two_four(torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        False
    """
    if weight.ndim != 2 or weight.shape[1] % 4:
        return False
    return bool(((weight.reshape(-1, 4) != 0).sum(1) <= 2).all())


@torch.no_grad()
def measure(
    name: str, module: nn.Module, weight: Tensor, tokens: Sequence[int], gpu: Hardware
) -> Measured:
    """One layer's Linear dense and sparse, with every number of tokens.

    It is used sparse when it is surely faster (see `steppe.core.speed.Speed`) with **each** number
    of tokens, so that nothing that was asked about becomes slower.

    Args:
        name: the weight's name.
        module: the module that holds it.
        weight: its weight, on any device.
        tokens: rows of the inputs to measure.
        gpu: where and how.
    """
    shape = tuple(weight.shape)

    def no(reason: str, **more: Any) -> Measured:
        return Measured(name=name, shape=shape, keep=False, reason=reason, **more)

    if not isinstance(module, nn.Linear):
        return no(f"{type(module).__name__} is not a Linear")
    if not is_two_four(weight):
        return no("not 2:4")
    if weight.dtype not in _HALF:
        return no(f"{str(weight.dtype).removeprefix('torch.')} is not half precision")
    dense = weight.detach().to(gpu.device).contiguous()
    bias = module.bias.detach().to(gpu.device) if module.bias is not None else None
    try:
        sparse = gpu.convert(dense)
        draw = torch.Generator().manual_seed(0)
        inputs = [torch.randn(n, shape[1], generator=draw).to(dense) for n in tokens]
        differences = []
        for x in inputs:
            expected, got = F.linear(x, dense, bias), F.linear(x, sparse, bias)
            scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
            differences.append(float((got - expected).abs().max() / scale))
        calls = [[partial(F.linear, x, own, bias) for own in (dense, sparse)] for x in inputs]
        speeds = [Speed.of(gpu.turns(*pair), "2:4 kernels skip zeros") for pair in calls]
    except (RuntimeError, NotImplementedError, ValueError) as error:
        # the kernels' own limits on shapes differ by GPU and version of torch
        return no(f"torch cannot: {str(error).splitlines()[0]}")
    numbers: dict[str, Any] = {
        "dense_ms": tuple(speed.dense_ms for speed in speeds),
        "sparse_ms": tuple(speed.sparse_ms for speed in speeds),
        "low": tuple(speed.low for speed in speeds),
        "difference": max(differences),
    }
    if not max(differences) <= TOLERANCE:
        return no("the sparse kernel's outputs differ", **numbers)
    for n, speed in zip(tokens, speeds, strict=True):
        if not speed.claimed:
            return no(f"not faster with {n} tokens", **numbers)
    return Measured(name=name, shape=shape, keep=True, reason="faster", **numbers)


def plan(model: nn.Module, tokens: Sequence[int], gpu: Hardware) -> list[Measured]:
    """`measure` for every prunable layer, one at a time on the GPU.

    Raises:
        SteppeError: no layer is 2:4.
    """
    layers, weights = prunable(model)
    measured = [
        measure(layer.name, _holder(model, layer.name), weights[layer.name], tokens, gpu)
        for layer in layers
    ]
    if all(m.reason == "not 2:4" for m in measured):
        raise SteppeError(
            "some layer must be 2:4: two zeros among every four consecutive inputs",
            got=", ".join(m.name for m in measured[:3])
            + (" and all others" if measured[3:] else ""),
            way_out="prune with --structure 2:4, or --to compact",
        )
    return measured


def _holder(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def parse_tokens(text: str) -> list[int]:
    """Numbers of tokens, comma-separated.

    Example:
        >>> parse_tokens("1,64,1024")
        [1, 64, 1024]
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise SteppeError(
            "--tokens are whole numbers above 0", got=repr(text), way_out="--tokens 1,64,1024"
        )
    return [int(part) for part in parts]


@EXPORTS.register("2:4")
def two_four(run: Path, out: Path, *, device: str = "cuda", tokens: str = "1,64,1024") -> Exported:
    """Copy the model and write which of its 2:4 layers measure faster on this GPU.

    Args:
        run: folder of the pruned model.
        out: folder to write.
        device: the GPU to measure on.
        tokens: tokens per forward pass (batch times length) to measure, comma-separated: those
            you will serve.

    Raises:
        SteppeError: the device has no 2:4 kernels, or no layer is 2:4.
    """
    return write_plan(run, out, parse_tokens(tokens), hardware(device))


def write_plan(run: Path, out: Path, counts: list[int], gpu: Hardware) -> Exported:
    """`two_four` on given hardware."""
    folder = OutFolder(run, out, "2:4")
    require("transformers", install="'steppe[llm]'", purpose="a language model")
    measured = plan(class_in(run).from_pretrained(run), counts, gpu)
    weights = sorted(p.name for p in run.glob("*.safetensors*") if p.is_file())
    files = [*side_files(run), *weights]
    folder.claim([*files, PLAN])
    for name in files:
        folder.copy(name)
    written: dict[str, Any] = {
        "device": gpu.name,
        "torch": torch.__version__,
        "tokens": counts,
        "layers": [asdict(m) for m in measured],
    }
    write_text(out / PLAN, json.dumps(written, indent=2) + "\n")
    kept = [m for m in measured if m.keep]
    record = folder.finish(
        {
            "device": gpu.name,
            "tokens": counts,
            "layers_sparse": len(kept),
            "layers": len(measured),
            "not_two_four": [m.name for m in measured if m.reason == "not 2:4"],
        }
    )
    return Exported(record=record, lines=_lines(measured, counts, gpu.name))


def _lines(measured: list[Measured], tokens: list[int], device: str) -> list[str]:
    kept = [m for m in measured if m.keep]
    lines = [f"{len(kept)} of {len(measured)} layers measure faster as 2:4 on {device}"]
    for i, n in enumerate(tokens):
        dense, sparse = (sum(getattr(m, key)[i] for m in kept) for key in ("dense_ms", "sparse_ms"))
        if kept:
            lines.append(f"{n} tokens: these take {dense:.3f} ms dense, {sparse:.3f} ms sparse")
    reasons: dict[str, list[str]] = {}
    for m in measured:
        if not m.keep:
            reasons.setdefault(m.reason, []).append(m.name)
    lines += [f"dense, {reason}: {', '.join(names)}" for reason, names in reasons.items()]
    if not kept:
        lines.append("nothing is gained on this device; the model is used dense")
    return lines


def load_semi_structured(
    folder: Path | str, device: str = "cuda", gpu: Hardware | None = None
) -> nn.Module:
    """The causal language model of a 2:4 export, its faster layers as sparse tensors.

    For inference: nothing has a gradient and cannot be saved; the folder's
    safetensors stay the dense form.

    Args:
        folder: what ``steppe export --to 2:4`` wrote.
        device: the GPU; the same kind as was measured on.
        gpu: stands in for the device.

    Raises:
        SteppeError: there is no plan, or it was measured on another kind of GPU.
    """
    path = Path(folder) / PLAN
    if not path.is_file():
        raise SteppeError(
            "2:4 layers are chosen by measuring them first",
            got=f"{folder} without {PLAN}",
            way_out="steppe export RUN --to 2:4 --out FOLDER",
        )
    gpu = gpu or hardware(device)
    written = read_json(path)
    if written["device"] != gpu.name:
        raise SteppeError(
            "a plan holds on the kind of GPU that it was measured on",
            got=f"{gpu.name}, measured on {written['device']}",
            consequence="its layers may be slower here",
            way_out="steppe export --to 2:4 again on this machine",
        )
    require("transformers", install="'steppe[llm]'", purpose="a language model")
    model: nn.Module = class_in(folder).from_pretrained(folder)
    # a sparse weight has no gradient, so that nothing behind it may ask for one
    model = model.to(gpu.device).eval().requires_grad_(False)
    for layer in written["layers"]:
        if layer["keep"]:
            module = _holder(model, layer["name"])
            assert isinstance(module, nn.Linear), f"{layer['name']} was a Linear when measured"
            sparse = gpu.convert(module.weight.detach().contiguous())
            module.weight = nn.Parameter(sparse, requires_grad=False)
    return model
