"""How fast and how small a pruned language model is here, beside the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from steppe.core.errors import SteppeError, unknown
from steppe.evaluation import EVALUATIONS, Evaluation, read_record
from steppe.evaluation.perplexity import Perplexity
from steppe.llm.architecture import answers_in_tokens
from steppe.llm.checkpoint import folder_of
from steppe.llm.footprint import footprint, kind_of
from steppe.llm.generation_speed import ENOUGH, Setting, check_packed, compare_speeds, verdict
from steppe.llm.load import DTYPES, not_causal
from steppe.llm.skeleton import quiet, read_config, skeleton
from steppe.record.origin import dense_of, first_of

_QUALITY = ("perplexity", "loss", "source", "window", "stride", "tokens", "sha256", "dtype")


@EVALUATIONS.register("speed")
@dataclass(frozen=True, kw_only=True)
class GenerationSpeed(Evaluation):
    """Tokens per second and memory of a language model with packed matrices, and of a dense one.

    Args:
        dense: what it is compared with; if none is given, the same folder with dense matrices, or
            with a text the dense model that the run's record names.
        sparse: bits, index or csr; auto, the fastest here for each matrix.
        dtypes: of both, comma-separated; the fastest of each counts.
        prompt: tokens that are read first.
        tokens: tokens that are written.
        batches: texts that are written at once, comma-separated.
        threads: of the processor; torch's own number, if none is given.
        turns: fresh processes of each model, next to each other; 8 or more bound the gain.
        repeats: texts that each process writes; their median counts.
        text: on which the perplexity of both is measured.
        window: tokens that the model sees at once there.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    dense: str | None = None
    sparse: str = "auto"
    dtypes: str = "float32,bfloat16"
    prompt: int = 64
    tokens: int = 32
    batches: str = "1,4"
    threads: int | None = None
    turns: int = ENOUGH
    repeats: int = 3
    text: str | None = None
    window: int | None = None

    def measure(self) -> dict[str, Any]:
        """Both in turns, in fresh processes."""
        ((_, result),) = measured_together([self])
        return result

    def checked(self) -> None:
        """Whether the options can be, before anything starts.

        Raises:
            SteppeError: one cannot.
        """
        for flag in ("prompt", "tokens", "threads", "turns", "repeats"):
            if (value := getattr(self, flag)) is not None and value < 1:
                raise SteppeError(f"--{flag} is 1 or more", got=value, way_out="leave it out")
        if self.device != "cpu":
            raise SteppeError(
                "packed matrices are multiplied on the CPU",
                got=f"--device {self.device}",
                way_out="leave it out; for 2:4 weights on a GPU, steppe export --to 2:4",
            )
        _numbers(self.batches)
        _dtypes(self.dtypes)
        check_packed(self.sparse)

    @property
    def setting(self) -> Setting:
        """What is written, and how often."""
        return Setting(
            prompt=self.prompt,
            tokens=self.tokens,
            batches=_numbers(self.batches),
            threads=self.threads,
            turns=self.turns,
            repeats=self.repeats,
        )

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """The claim for each batch, the memory, and how many layers are packed."""
        parts = []
        for batch, speeds in result["speed"].items():
            speed = speeds["generation"]
            arms = result["arms"]
            rates = [
                arms[speed[kind]]["batches"][batch]["tokens_per_second"]
                for kind in ("sparse", "dense")
            ]
            parts.append(
                f"batch {batch}: {rates[0]:.4g} tokens/s, dense {rates[1]:.4g} "
                f"({speed['ratio']:.2f}x, {verdict(speed)})"
            )
        first = next(iter(result["speed"].values()))["generation"]
        memory = [
            result["arms"][first[kind]]["written_bytes"] / 1e6 for kind in ("sparse", "dense")
        ]
        packed = [layer for layer in result["formats"] if layer["format"] != "dense"]
        if not packed and self.dense is None and self.text is None:
            return (
                "nothing was packed, so both models are the same and their times say nothing; "
                "--sparse bits packs what gets smaller"
            )
        return (
            f"{'; '.join(parts)}; memory {memory[0]:.4g} MB, dense {memory[1]:.4g}; "
            f"{len(packed)} of {len(result['formats'])} matrices packed"
        )


def measured_together(
    models: Sequence[GenerationSpeed],
) -> list[tuple[GenerationSpeed, dict[str, Any]]]:
    """Pruned models of one dense one, timed in the same turns.

    Args:
        models: with the same options, and with a text if they are several.

    Returns:
        Each as it was measured, with the dense model that was found for it, and its result. With
        a text a result has ``points``, of ``dense`` and ``sparse``: `footprint`, ``kind``, and
        what the perplexity is and on which text.

    Raises:
        SteppeError: an option cannot be, a folder is no language model's, or the dense one is not
            known.
    """
    first = models[0]
    first.checked()
    if first.dense is None and first.text is not None:
        found = _named_dense(models)
        models = [replace(model, dense=found) for model in models]
    if len(models) > 1:  # the dense one may be named among them
        models = [m for m in models if not _same_folder(m.run, m.dense)] or models[:1]
    runs = [_folder(model.run) for model in models]
    dense = runs[0] if models[0].dense is None else _folder(models[0].dense)
    points = {} if first.text is None else _points([dense, *runs], first)
    results = compare_speeds(
        runs, dense, format=first.sparse, dtypes=_dtypes(first.dtypes), setting=first.setting
    )
    return [
        (model, results[run] | _of_both(points.get(dense), points.get(run)))
        for model, run in zip(models, runs, strict=True)
    ]


def _of_both(dense: dict[str, Any] | None, sparse: dict[str, Any] | None) -> dict[str, Any]:
    if dense is None or sparse is None:
        return {}
    points = {"dense": dense, "sparse": sparse}
    return {"points": {n: own | {"kind": kind_of(own, dense)} for n, own in points.items()}}


def _points(folders: Sequence[str], options: GenerationSpeed) -> dict[str, dict[str, Any]]:
    points: dict[str, dict[str, Any]] = {}
    for folder in dict.fromkeys(folders):
        quality = Perplexity(run=folder, text=options.text, window=options.window).measure()
        points[folder] = footprint(Path(folder)) | {key: quality[key] for key in _QUALITY}
        if points[folder]["sha256"] != points[folders[0]]["sha256"]:
            raise SteppeError(
                "models of one dense one read the same tokens in a text",
                got=f"{folder}, which cuts {options.text} otherwise than {folders[0]}",
                way_out="leave it out, or name its own model as --dense",
            )
    return points


def _named_dense(models: Sequence[GenerationSpeed]) -> str:
    """The dense model that the records of all of them name.

    Raises:
        SteppeError: one names none, another, or one that is not there.
    """
    names = {m.run: dense_of(first_of(read_record(m.run))).get("name") for m in models}
    named = list(dict.fromkeys(str(name) for name in names.values() if name is not None))
    dense = Path(named[0]) if named else None
    alone = [run for run, name in names.items() if name is None and not _same_folder(run, dense)]
    if dense is None or len(named) > 1 or alone or not dense.is_dir():
        got = f"{alone[0]} with no record of what it was made from" if alone else ""
        got = got or f"records that name {' and '.join(named)}"
        raise SteppeError(
            "pruned models are compared with the dense one that they were made from",
            got=got if len(named) != 1 or alone else f"{dense}, which is no folder here",
            way_out="--dense MODEL",
        )
    return str(dense)


def _same_folder(one: str | Path, other: str | Path | None) -> bool:
    return other is not None and Path(one).resolve() == Path(other).resolve()


def _numbers(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise SteppeError(
            "--batches are whole numbers above 0", got=repr(text), way_out="--batches 1,4"
        )
    return tuple(dict.fromkeys(int(word) for word in words))


def _dtypes(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise SteppeError(
            "--dtypes names one or more", got=repr(text), way_out="--dtypes float32,bfloat16"
        )
    for word in words:
        if word not in DTYPES:
            raise unknown("dtype", word, DTYPES)
    return words


def _folder(name: str) -> str:
    """The folder of a model that writes text, looked at before any process starts.

    Raises:
        SteppeError: it is none, or a run on images.
    """
    path = Path(name)
    if (path / "record.json").is_file() and not (path / "config.json").is_file():
        raise SteppeError(
            "steppe bench times a language model's folder",
            got=f"{path}, a run of another kind: it has record.json and no config.json",
            way_out="steppe report shows the latency of image runs, which steppe train measured",
        )
    folder = folder_of(name)
    with quiet():
        model = skeleton(read_config(folder), DTYPES["float32"], experts=None)
    if not answers_in_tokens(model):
        raise not_causal(model, folder)
    return str(folder)
