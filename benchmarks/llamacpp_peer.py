"""Text from llama.cpp: tokens per second and memory of a dense GGUF file, in a fresh process.

    PYTHONPATH=PEER python benchmarks/llamacpp_peer.py --model FILE.gguf --threads 2
    PYTHONPATH=PEER python benchmarks/llamacpp_peer.py --model FOLDER --dtype f16 --work DIR

PEER is where llama-cpp-python is. A folder of safetensors is written as GGUF first, without a
tokenizer: prompts are token ids, as in `steppe.llm.generation_worker`, whose lengths and repeats
these are. Zeros are stored and multiplied like all other weights. One JSON object on the last line
of standard output.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp
import psutil
from llama_cpp import llama_cpp as native

_SILENT = native.llama_log_callback(lambda level, text, data: None)
_TYPES = {"f32": 0, "f16": 1}


class Model:
    """A GGUF file, loaded by llama.cpp.

    Args:
        path: the file.
        threads: for prompt and generation.
        context: tokens that fit.
        cache: dtype of stored keys and values: f16 or f32.
    """

    def __init__(self, path: Path, threads: int, context: int, cache: str = "f16") -> None:
        native.llama_log_set(_SILENT, ctypes.c_void_p(0))
        native.llama_backend_init()
        self._model = native.llama_model_load_from_file(
            str(path).encode(), native.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"llama.cpp does not load {path}")
        wanted = native.llama_context_default_params()
        wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = context
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.type_k = wanted.type_v = _TYPES[cache]
        if cache == "f32":  # the fused attention rounds to half precision
            wanted.flash_attn_type = 0
        self._context = native.llama_init_from_model(self._model, wanted)
        if not self._context:
            raise SystemExit(f"llama.cpp has no context for {path}")
        self._vocabulary = native.llama_model_get_vocab(self._model)
        self.words = native.llama_vocab_n_tokens(self._vocabulary)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *error: object) -> None:
        native.llama_free(self._context)
        native.llama_model_free(self._model)

    def forget(self) -> None:
        """Begin a new text."""
        native.llama_memory_clear(native.llama_get_memory(self._context), True)

    def tokenize(self, text: str) -> list[int]:
        """A text as tokens, with those that the tokenizer puts around it."""
        raw = text.encode()
        room = (native.llama_token * (len(raw) + 8))()
        count = native.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), True, False)
        assert count >= 0, "a token has at least one byte"
        return list(room[:count])

    def _read(self, tokens: list[int], every: bool = False) -> Any:
        """Append tokens; the logits of the last, or of each."""
        import numpy as np

        batch = native.llama_batch_init(len(tokens), 0, 1)
        past = native.llama_memory_seq_pos_max(native.llama_get_memory(self._context), 0) + 1
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, past + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = every or i == len(tokens) - 1
        failed = native.llama_decode(self._context, batch)
        native.llama_batch_free(batch)
        assert not failed, f"llama_decode says {failed}"
        rows = len(tokens) if every else 1
        values = native.llama_get_logits(self._context)
        return np.ctypeslib.as_array(values, (rows * self.words,)).reshape(rows, self.words)

    def logits(self, tokens: list[int]) -> Any:
        """[tokens, words], of a new text."""
        self.forget()
        return self._read(tokens, every=True).copy()

    def greedy(self, prompt: list[int], tokens: int) -> tuple[float, float, list[int]]:
        """Milliseconds until the first new token, and of each of so many more; and all of them."""
        self.forget()
        begun = time.perf_counter()
        text = [int(self._read(prompt)[-1].argmax())]
        first = time.perf_counter()
        for _ in range(tokens):
            text.append(int(self._read(text[-1:])[-1].argmax()))
        ended = time.perf_counter()
        return 1000 * (first - begun), 1000 * (ended - first) / max(tokens, 1), text


def peak() -> int:
    """The most bytes of this process that ever were; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            own = [line for line in status if line.startswith("VmHWM")]
    except OSError:
        return 0
    return 1024 * int(own[0].split()[1]) if own else 0


def measured(wanted: dict[str, Any]) -> dict[str, Any]:
    """What one process has to say of a file.

    Args:
        wanted: ``model``, ``threads``, ``prompt``, ``tokens``, ``repeats``.
    """
    process = psutil.Process()
    before, begun = process.memory_info().rss, time.perf_counter()
    context = wanted["prompt"] + wanted["tokens"] + 8
    with Model(Path(wanted["model"]), wanted["threads"], context) as model:
        seconds = time.perf_counter() - begun
        draw = random.Random(0)
        prompt = [draw.randrange(model.words) for _ in range(wanted["prompt"])]
        model.greedy(prompt, 1)  # pages of the mapped file are in memory once they were read
        resident = process.memory_info().rss - before
        turns = [model.greedy(prompt, wanted["tokens"]) for _ in range(wanted["repeats"])]
    each = statistics.median(turn[1] for turn in turns)
    return {
        "llama_cpp_python": llama_cpp.__version__,
        "system": native.llama_print_system_info().decode(),
        "file_bytes": Path(wanted["model"]).stat().st_size,
        "load_seconds": seconds,
        "resident_bytes": resident,
        "peak_bytes": max(peak() - before, 0),
        "prompt_ms": [turn[0] for turn in turns],
        "token_ms": [turn[1] for turn in turns],
        "tokens_per_second": 1000 / each,
        "text": turns[-1][2],
    }


def written(folder: Path, work: Path, dtype: str) -> Path:
    """The GGUF file of a model's folder, made where it is not there."""
    from steppe.llm.gguf import DTYPES, checkpoint, write
    from steppe.llm.skeleton import read_config

    path = work / f"{folder.name}-{dtype}.gguf"
    if not path.is_file():
        write(path, checkpoint(folder), read_config(folder), dtype=DTYPES.get(dtype))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file, or a folder")
    parser.add_argument("--dtype", default="stored", choices=("stored", "f32", "f16", "bf16"))
    parser.add_argument("--work", type=Path, help="where a folder's GGUF file goes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="measure in this very process")
    arguments = parser.parse_args()
    path = arguments.model
    if path.is_dir():
        path = written(path, arguments.work or path, arguments.dtype)
    wanted = {key: getattr(arguments, key) for key in ("threads", "prompt", "tokens", "repeats")}
    if arguments.here:
        print(json.dumps(wanted | {"model": str(path)} | measured(wanted | {"model": str(path)})))
        return
    # writing a file leaves torch in this process; what is measured has none of it
    numbers = [item for key, value in wanted.items() for item in (f"--{key}", str(value))]
    command = [sys.executable, __file__, "--here", "--model", str(path), *numbers]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
