"""How fast and how small a pruned language model is here, beside the dense one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from steppe.core.errors import SteppeError
from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.llm.generation_speed import Setting, compare_speed


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
        turns: fresh processes of each model.
        repeats: texts that each process writes.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    dense: str | None = None
    sparse: str = "auto"
    dtypes: str = "float32,bfloat16"
    prompt: int = 64
    tokens: int = 32
    batches: str = "1,4"
    threads: int | None = None
    turns: int = 3
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
        dtypes = tuple(word.strip() for word in self.dtypes.split(",") if word.strip())
        dense = self.run if self.dense is None else self.dense
        return compare_speed(self.run, dense, format=self.sparse, dtypes=dtypes, setting=setting)

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
            surely = "" if speed["claimed"] else ", not surely faster"
            parts.append(
                f"batch {batch}: {rates[0]:.4g} tokens/s, dense {rates[1]:.4g} "
                f"({speed['ratio']:.2f}x{surely})"
            )
        first = next(iter(result["speed"].values()))["generation"]
        memory = [
            result["arms"][first[kind]]["resident_bytes"] / 1e6 for kind in ("sparse", "dense")
        ]
        packed = [layer for layer in result["formats"] if layer["format"] != "dense"]
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
