"""A causal language model and its tokenizer, ready to be measured."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from steppe.core.errors import SteppeError, unknown
from steppe.core.optional_import import require
from steppe.engine.precision import MARGIN, bfloat16_ratio
from steppe.llm.architecture import answers_in_tokens, class_in
from steppe.llm.checkpoint import folder_of
from steppe.llm.compact import load_compact

_TOKENIZERS = ("*token*", "*vocab*", "merges*", "bpe*", "*.model", "*.spm", "tekken*", "spiece*")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load(name: str, *, device: str = "cpu", dtype: str | None = None) -> tuple[Any, Any]:
    """A model in eval mode and its tokenizer; code that comes with a model is never run.

    Args:
        name: a folder with config.json and safetensors (or of ``steppe export --to compact``),
            or a hub id.
        device: where it goes; ``auto`` spreads it over what there is.
        dtype: float32, float16 or bfloat16. If none is given: as stored, but on a CPU, whose
            kernels for half precision are slow, float32.

    Returns:
        The model and the tokenizer.

    Raises:
        SteppeError: it is no causal language model, weights are missing, the device does not
            exist, or there is no tokenizer.
    """
    if dtype is not None and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    folder = folder_of(name)
    return load_dense(folder, device, dtype), tokenizer_of(folder)


def load_dense(folder: Path, device: str, dtype: str | None) -> Any:
    """The model of a folder in eval mode, every matrix dense; see `load`."""
    on_cpu = device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
    wanted: Any = DTYPES[dtype] if dtype is not None else torch.float32 if on_cpu else "auto"
    if any(folder.glob("compact-*.safetensors")):
        with _quiet():
            model: Any = load_compact(folder)
        model = model.to(wanted) if wanted != "auto" else model
        model = placed(model, "cpu" if device == "auto" else device)
    else:
        model = load_model(folder, device, wanted)
    if on_cpu and dtype in ("float16", "bfloat16"):
        _tell_cost(model)
    return model.eval()


def _tell_cost(model: Any) -> None:
    """Half precision on a processor that has no fast one is said, not refused."""
    width = getattr(model.config.get_text_config(), "hidden_size", 0)
    ratio = bfloat16_ratio("cpu", 512, width)
    if ratio * MARGIN <= 1.0:
        print(
            f"note: half precision takes about {1 / ratio:.1f} times as long as float32 on this "
            "processor; without --dtype it is float32",
            file=sys.stderr,
            flush=True,
        )


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer that was saved with a model.

    Raises:
        SteppeError: there is none that can be read.
    """
    transformers = require("transformers", install="'steppe[llm]'", purpose="reading a tokenizer")
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        # transformers would make one that knows no word
        raise SteppeError(
            "a model folder holds its tokenizer",
            got=f"none in {folder}",
            way_out="copy tokenizer.json and tokenizer_config.json of the original there",
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # what a missing or damaged tokenizer raises differs by its kind
        raise SteppeError(
            "a model folder holds its tokenizer",
            got=f"{folder} ({type(error).__name__}: {str(error).splitlines()[0][:200]})",
            way_out="copy tokenizer.json and tokenizer_config.json of the original there",
        ) from error


def words_of(folder: Path) -> str:
    """A hash of a tokenizer's words; empty where they lie in no file of their own."""
    if not (folder / "tokenizer.json").is_file():
        return ""
    vocabulary = sorted(tokenizer_of(folder).get_vocab().items())
    return hashlib.sha256(repr(vocabulary).encode()).hexdigest()


def load_model(folder: Path, device: str, dtype: Any) -> Any:
    """A causal language model from its folder, without a tokenizer.

    Args:
        folder: with config.json and safetensors.
        device: where it goes; ``auto`` spreads it over what there is.
        dtype: of torch, or ``auto``: as stored.

    Raises:
        SteppeError: as of `load`.
    """
    require("transformers", install="'steppe[llm]'", purpose="loading a language model")
    options: dict[str, Any] = {"device_map": "auto"} if device == "auto" else {}
    try:
        with _quiet():
            model, info = class_in(folder).from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, with the name
                **options,
            )
    except Exception as error:  # no config, no weights, another architecture: many kinds
        raise SteppeError(
            "a language model is a folder with config.json and safetensors, or a hub id",
            got=f"{folder} ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})",
            consequence="it could not be loaded as a causal language model",
            way_out="check the folder; for image models use steppe evaluate RUN --on clean",
        ) from error
    if not answers_in_tokens(model):
        raise not_causal(model, folder)
    wrong = sorted({*info["missing_keys"], *info["mismatched_keys"]}, key=str)
    if wrong:
        raise SteppeError(
            "a model folder must hold every weight, in the shape of its config.json",
            got=f"{len(wrong)} missing or of another shape in {folder}, e.g. {wrong[0]}",
            consequence="in their place there would be random numbers",
            way_out="copy the folder anew",
        )
    return model if device == "auto" else placed(model, device)


def not_causal(model: Any, folder: Path) -> SteppeError:
    """The error for a model of another task."""
    return SteppeError(
        "language models are measured by how they predict each next token",
        got=f"{type(model).__name__} in {folder}",
        way_out=f"measure it on its own task: transformers.{type(model).__name__}"
        f'.from_pretrained("{folder}")',
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no reports of transformers: what is wrong is said by us."""
    logging = require(
        "transformers.utils.logging", install="'steppe[llm]'", purpose="loading a language model"
    )
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def placed(model: Any, device: str) -> Any:
    """A model on a device.

    Raises:
        SteppeError: it does not exist, or does not hold the model.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise SteppeError(
            "the device must exist here and hold the model",
            got=f"{device!r} ({str(error).splitlines()[0]})",
            way_out="--device cpu, or --device auto to spread it",
        ) from None
