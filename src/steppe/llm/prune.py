"""A pretrained language model, pruned block by block into a new folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.engine import ranks
from steppe.engine.blockwise.compatibility import needs_windows
from steppe.engine.blockwise.config import BlockwiseConfig
from steppe.engine.blockwise.journal import Journal
from steppe.engine.blockwise.reconstruct import FitConfig
from steppe.engine.blockwise.walk import Blockwise
from steppe.engine.run_folder import RunFolder, versions
from steppe.llm import memory
from steppe.llm.calibration import check_vocabulary, windows
from steppe.llm.load import tokenizer_of
from steppe.llm.model import StreamedModel
from steppe.llm.perplexity import pieces
from steppe.llm.streamed import streamed_perplexity
from steppe.llm.text import read, tokenize, too_short
from steppe.method import Method

Report = Callable[[dict[str, Any]], None]


def prune(
    model: str | Path,
    method: Method,
    calibration: str | Path | Tensor | None = None,
    out: str | Path = "pruned",
    *,
    evaluate: Sequence[str | Path] = (),
    samples: int = 128,
    window: int | None = None,
    evaluate_window: int | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str = "auto",
    micro_batch: int = 8,
    measure: int = 8,
    fit: FitConfig | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    report: Report = lambda row: None,
) -> dict[str, Any]:
    """Prune any Hugging Face causal language model; started again, it goes on where it was.

    One block is in memory at a time, so the model may be larger than memory. The result is a
    folder that plain transformers loads, with exact zeros, masks and a record beside it.

    Args:
        model: a folder, or a hub id.
        method: e.g. ``steppe.methods.safe_plus(sparsity=0.5)``; methods for a training loop take
            their settings for language models.
        calibration: text file, folder, dataset id, or token ids ``[samples, window]``.
        out: the new folder.
        evaluate: texts on which perplexity is measured, dense and sparse.
        samples: calibration windows.
        window: tokens in each; 2048, or the model's positions if they are fewer.
        evaluate_window: tokens in the windows of the evaluation; `window` by default.
        seed: of the windows and of their order.
        device: where blocks compute: cpu, cuda, ...; a GPU when there is one.
        precision: of block optimisation: float32, bfloat16 (autocast), or auto, which is bfloat16
            where the hardware multiplies it.
        micro_batch: windows that go through a block together; bounds working memory.
        measure: windows on which the layers' output errors are measured.
        fit: how blocks are optimised, for SAFE and ADMM.
        include: shell patterns of the layers to prune; all in the decoder blocks if empty.
        exclude: shell patterns of what stays dense.
        report: called with each block's row of the record.

    Returns:
        The record, as in ``record.json``.

    Raises:
        SteppeError: the model, the text, the method and the folder do not fit each other.

    Source: SAFE (ICML 2025), section 4.2; SparseGPT, Wanda, ALPS for the walk over the blocks.
    """
    job = Job(
        model,
        method,
        calibration,
        out,
        evaluate=evaluate,
        samples=samples,
        window=window,
        evaluate_window=evaluate_window,
        seed=seed,
        device=device,
        precision=precision,
        micro_batch=micro_batch,
        measure=measure,
        fit=fit,
        include=include,
        exclude=exclude,
    )
    return job.run(report)


class Job:
    """What `prune` is asked to do, checked, with nothing long done yet."""

    def __init__(
        self,
        model: str | Path,
        method: Method,
        calibration: str | Path | Tensor | None,
        out: str | Path,
        *,
        evaluate: Sequence[str | Path],
        samples: int,
        window: int | None,
        evaluate_window: int | None,
        seed: int,
        device: str | None,
        precision: str,
        micro_batch: int,
        measure: int,
        fit: FitConfig | None,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> None:
        from steppe.methods import for_language

        self.method = for_language(method)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        join(self.device)
        self.model = StreamedModel(str(model), self.device)
        self.window = self.model.window(window)
        self.evaluate_window = self.model.window(
            self.window if evaluate_window is None else evaluate_window
        )
        self.include, self.exclude = tuple(include), tuple(exclude)
        self.out, self.evaluate, self.seed = Path(out), [str(e) for e in evaluate], seed
        chosen = _precision(precision, self.device)
        self.config = BlockwiseConfig(
            seed=seed,
            micro_batch=micro_batch,
            measure=measure,
            reconstruction=_with_precision(fit or FitConfig(), chosen),
        )
        if isinstance(calibration, Tensor):
            self.window = calibration.shape[-1]
        self.source, self.samples = calibration, samples
        self.tokens, self.calibration = self._calibrate()

    @property
    def needs_text(self) -> bool:
        """Whether the method looks at activations at all."""
        return needs_windows(self.method)

    def _calibrate(self) -> tuple[Tensor | None, dict[str, Any] | None]:
        if self.source is None:
            return None, None
        given = isinstance(self.source, Tensor) or str(self.source).endswith(".safetensors")
        tokenizer = None if given else tokenizer_of(self.model.folder)
        found = windows(
            self.source, tokenizer, samples=self.samples, window=self.window, seed=self.seed
        )
        check_vocabulary(found.tokens, self.model.vocabulary)
        self.model.window(found.tokens.shape[1])
        return found.tokens, found.description

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        fit = {**vars(self.config.reconstruction)}
        plain = {
            "model": {"name": str(self.model.folder), "fingerprint": fingerprint(self.model)},
            "method": self.method.to_dict(),
            "calibration": self.calibration,
            "evaluate": {"texts": self.evaluate, "window": self.evaluate_window},
            "include": list(self.include),
            "exclude": list(self.exclude),
            "seed": self.seed,
            "device": self.device,
            "micro_batch": self.config.micro_batch,
            "measure": self.config.measure,
        }
        if self.method.objective.scope == "block":
            plain["fit"] = fit
        kept: dict[str, Any] = json.loads(json.dumps(plain))
        return kept

    def walk(self, report: Report) -> Blockwise:
        """The walk over the blocks; everything that can be wrong is found here."""
        # a method that looks at no activations walks only what errors are measured on
        seen = None if self.needs_text else self.config.measure
        return Blockwise(
            self.model,
            self.method,
            self.config,
            self.tokens[:seen] if self.tokens is not None and seen != 0 else None,
            self.out,
            include=self.include,
            exclude=self.exclude,
            report=report,
        )

    def run(self, report: Report) -> dict[str, Any]:
        """Prune, evaluate, write the record; returns it."""
        folder = RunFolder(self.out, self.recipe)
        if folder.record is not None:
            return folder.record
        ranks.barrier()  # all have looked before the first one writes
        walk = self.walk(report)
        texts = {name: self._text(name) for name in self.evaluate}
        memory.check(self, memory.estimate(self, texts))
        self.model.checkpoint.check_finite()
        with contextlib.ExitStack() as held:
            if ranks.first():
                folder.claim()
                held.enter_context(folder.alone())
            ranks.barrier()
            return self._work(folder, walk, texts)

    def _work(self, folder: RunFolder, walk: Blockwise, texts: dict[str, Tensor]) -> dict[str, Any]:
        journal = Journal(self.out / "checkpoints" / "job.json")
        began = time.time()
        dense = self._perplexities(journal, "dense", self.model, texts)
        rows = walk.run()
        if ranks.first():
            self.model.write_rest(self.out)
        ranks.barrier()
        self.model.free_rest()
        sparse = self._perplexities(journal, "sparse", None, texts)
        spent = float(journal.get("seconds", 0.0)) + time.time() - began
        journal.put(seconds=spent)
        record = self._record(rows, walk.notes, dense, sparse, spent)
        if ranks.first():
            for path in (self.out / "checkpoints").glob("*.bin"):
                path.unlink()
            folder.finish_record(record)
        ranks.barrier()
        return record

    def _text(self, name: str) -> Tensor:
        corpus = read(name, "test")
        tokens = tokenize(tokenizer_of(self.model.folder), corpus.joined())
        if len(tokens) < self.evaluate_window:
            raise too_short(corpus.source, len(tokens), self.evaluate_window, 0)
        cut = [piece for piece, _ in pieces(tokens, self.evaluate_window)][: corpus.windows]
        check_vocabulary(torch.stack(cut), self.model.vocabulary)
        return torch.stack(cut)

    def _perplexities(
        self, journal: Journal, which: str, model: StreamedModel | None, texts: dict[str, Tensor]
    ) -> dict[str, Any]:
        found: dict[str, Any] = journal.get(which, {})
        for name, tokens in texts.items():
            if name not in found:
                model = model or StreamedModel(str(self.out), self.device)
                scratch = self.out / "checkpoints"
                found[name] = streamed_perplexity(model, tokens, scratch, self.config.micro_batch)
                journal.put(**{which: found})
        return found

    def _record(
        self,
        rows: list[dict[str, Any]],
        notes: list[str],
        dense: dict[str, Any],
        sparse: dict[str, Any],
        seconds: float,
    ) -> dict[str, Any]:
        weights = sum(_numel(x) for row in rows for x in row["layers"])
        zeros = sum(round(x["sparsity_reached"] * _numel(x)) for row in rows for x in row["layers"])
        names = set(self.model.model.parameters())
        dense_parts = self.model.left_dense()
        parameters = sum(p.numel() for p in names)
        written = sum(p.stat().st_size for p in self.out.glob("model-*.safetensors"))
        packed = _packed(rows, written, round(written / parameters))
        spent: dict[str, float] = {}
        for row in rows:
            for key, value in row["seconds"].items():
                spent[key] = round(spent.get(key, 0.0) + value, 4)
        return {
            "method": self.method.name,
            "recipe": self.recipe,
            "sparsity_asked": self.method.sparsity,
            "sparsity_reached": zeros / max(weights, 1),
            "dense": _quality(dense)
            | {
                "parameters": parameters,
                "nonzero": parameters,
                "bytes": self.model.checkpoint.bytes,
            },
            "sparse": _quality(sparse)
            | {
                "parameters": parameters,
                "nonzero": parameters - zeros,
                "bytes": written,
                "bytes_packed": packed,
            },
            "blocks": rows,
            "seconds": round(seconds, 3),
            "seconds_pruning": round(spent.get("all", 0.0), 3),
            "seconds_by_part": spent,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "seed": self.seed,
            "processes": ranks.world(),
            "calibration": self.calibration,
            "versions": versions() | _versions(),
            "fallbacks": [*(f"{x}: dense, its layout is unknown" for x in dense_parts), *notes],
            "gain": _gain(self.method, written, packed),
        }


def _numel(row: dict[str, Any]) -> int:
    return int(torch.Size(row["shape"]).numel())


def _quality(found: dict[str, Any]) -> dict[str, Any]:
    if not found:
        return {}
    first = next(iter(found.values()))
    return {"perplexity": first["perplexity"], "loss": first["loss"], "texts": found}


def _packed(rows: list[dict[str, Any]], written: int, width: int) -> int:
    """Bytes when only nonzero weights are stored, with one bit per weight of where they are.

    Args:
        rows: of the blocks.
        written: bytes of all shards.
        width: bytes of a weight as stored.
    """
    total = written
    for row in rows:
        for layer in row["layers"]:
            n = _numel(layer)
            zeros = round(layer["sparsity_reached"] * n)
            total -= zeros * width - n // 8
    return total


def _gain(method: Method, written: int, packed: int) -> str:
    text = (
        f"Gain: none yet in speed or size; the zeros are stored as numbers "
        f"({written} bytes). steppe export --to compact stores about {packed}"
    )
    if (getattr(method.structure, "n", 0), getattr(method.structure, "m", 0)) == (2, 4):
        return text + "; steppe export --to 2:4 keeps the layers that a GPU runs faster."
    return text + ". Unstructured zeros do not make torch's dense products faster."


def fingerprint(model: StreamedModel) -> str:
    """A short hash of what the model's files are: config, tensors, sizes. Weights are not read."""
    held = hashlib.sha256((model.folder / "config.json").read_bytes())
    for path in sorted(set(model.checkpoint.files.values())):
        held.update(f"{path.name} {path.stat().st_size}".encode())
        with open(path, "rb") as file:
            held.update(file.read(1 << 20))
    return held.hexdigest()[:16]


def join(device: str) -> None:
    """Meet the other processes when torchrun or accelerate launch started several."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not device.startswith("cuda"))


def _precision(asked: str, device: str) -> str:
    if asked != "auto":
        return asked
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if device == "cpu" and native() else "float32"


def _with_precision(fit: FitConfig, precision: str) -> FitConfig:
    import dataclasses

    return dataclasses.replace(fit, precision=precision)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("transformers", "safetensors")}
