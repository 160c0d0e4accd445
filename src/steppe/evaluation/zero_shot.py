"""Zero-shot accuracy of a language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from steppe.core.optional_import import require
from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.llm.load import load
from steppe.llm.zero_shot import SEVEN, zero_shot


@EVALUATIONS.register("zero_shot")
@dataclass(frozen=True, kw_only=True)
class ZeroShot(Evaluation):
    """Accuracy on tasks of lm-eval, without examples in the prompt.

    Args:
        tasks: names, comma-separated; the seven that Wanda reports, if none are given.
        task_folder: lm-eval's YAML files of more tasks.
        limit: examples of each task at most.
        dtype: float32, float16 or bfloat16; as stored (on a CPU float32), if none is given.
        batch: sequences in one forward pass.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    tasks: str = ",".join(SEVEN)
    task_folder: str | None = None
    limit: int | None = None
    dtype: str | None = None
    batch: int = 8

    def measure(self) -> dict[str, Any]:
        """Load the model and measure it; lm-eval is looked for first."""
        require("lm_eval", install="'steppe[zero-shot]'", purpose="--on zero_shot")
        model, tokenizer = load(self.run, device=self.device, dtype=self.dtype)
        return zero_shot(
            model,
            tokenizer,
            [task.strip() for task in self.tasks.split(",") if task.strip()],
            task_folder=Path(self.task_folder) if self.task_folder is not None else None,
            limit=self.limit,
            batch=self.batch,
        )

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """The mean and each task's accuracy."""
        own = [
            f"{task} {scores['acc']:.2%}"
            for task, scores in result["tasks"].items()
            if "acc" in scores
        ]
        if result["accuracy"] is None:
            return f"zero-shot: {result['tasks']}"
        return f"zero-shot accuracy {result['accuracy']:.2%}: {', '.join(own)}"
