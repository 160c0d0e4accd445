"""How fast and how small a pruned language model is here, beside the dense one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from steppe.core.errors import SteppeError, unknown
from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.llm.architecture import answers_in_tokens
from steppe.llm.checkpoint import folder_of
from steppe.llm.generation_speed import ENOUGH, Setting, check_packed, compare_speed, verdict
from steppe.llm.load import DTYPES, not_causal
from steppe.llm.skeleton import quiet, read_config, skeleton


@EVALUATIONS.register("speed")
@dataclass(frozen=True, kw_only=True)
class GenerationSpeed(Evaluation):
    """Tokens per second and memory of a language model with packed matrices, and of a dense one.

    Args:
        dense: what it is compared with; the same folder with dense matrices, if none is given.
        sparse: bits, index or csr; auto, the fastest here for each matrix.
        dtypes: of both, comma-separated; the fastest of each counts.
        prompt: tokens that are read first.
        tokens: tokens that are written.
        batches: texts that are written at once, comma-separated.
        threads: of the processor; torch's own number, if none is given.
        turns: fresh processes of each model, next to each other; 8 or more bound the gain.
        repeats: texts that each process writes; their median counts.
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

    def measure(self) -> dict[str, Any]:
        """Both in turns, in fresh processes."""
        for flag in ("prompt", "tokens", "threads", "turns", "repeats"):
            if (value := getattr(self, flag)) is not None and value < 1:
                raise SteppeError(f"--{flag} is 1 or more", got=value, way_out="leave it out")
        if self.device != "cpu":
            raise SteppeError(
                "packed matrices are multiplied on the CPU",
                got=f"--device {self.device}",
                way_out="leave it out; for 2:4 weights on a GPU, steppe export --to 2:4",
            )
        setting = Setting(
            prompt=self.prompt,
            tokens=self.tokens,
            batches=_numbers(self.batches),
            threads=self.threads,
            turns=self.turns,
            repeats=self.repeats,
        )
        dtypes = _dtypes(self.dtypes)
        check_packed(self.sparse)
        sparse = _folder(self.run)
        dense = sparse if self.dense is None else _folder(self.dense)
        return compare_speed(sparse, dense, format=self.sparse, dtypes=dtypes, setting=setting)

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
        if not packed:
            return (
                "nothing was packed, so both models are the same and their times say nothing; "
                "--sparse bits packs what gets smaller"
            )
        return (
            f"{'; '.join(parts)}; memory {memory[0]:.4g} MB, dense {memory[1]:.4g}; "
            f"{len(packed)} of {len(result['formats'])} matrices packed"
        )


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
