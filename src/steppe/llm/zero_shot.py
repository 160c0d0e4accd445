"""Zero-shot tasks, through EleutherAI's lm-eval where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require

# What Wanda and its successors report the mean accuracy of.
SEVEN = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")


def zero_shot(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str] = SEVEN,
    *,
    task_folder: Path | None = None,
    limit: int | None = None,
    batch: int = 8,
) -> dict[str, Any]:
    """Accuracy on multiple-choice tasks without examples in the prompt.

    A choice is right when its log-likelihood after the question is the largest (``acc``), or the
    largest per byte (``acc_norm``). lm-eval downloads the tasks' data from the hub.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        tasks: names of lm-eval, or of the task folder; Wanda's seven, if none are given.
        task_folder: more tasks, as lm-eval's YAML files. Such files may name Python functions,
            which are run: use folders you trust.
        limit: examples of each task at most; all, if none is given.
        batch: questions in one forward pass.

    Returns:
        ``tasks`` (per task its metrics, e.g. ``acc``, and ``samples``), ``accuracy`` (the mean of
        ``acc`` over the tasks that have it, or None), ``limit`` and ``lm_eval``, its version.

    Raises:
        SteppeError: lm-eval is not installed, a task is unknown, or its data cannot be loaded.
    """
    purpose = "evaluation on zero-shot tasks"
    lm_eval = require("lm_eval", install="'steppe[zero-shot]'", purpose=purpose)
    hugging = require("lm_eval.models.huggingface", install="'steppe[zero-shot]'", purpose=purpose)
    manager = require("lm_eval.tasks", install="'steppe[zero-shot]'", purpose=purpose).TaskManager(
        include_path=str(task_folder) if task_folder is not None else None
    )
    if not tasks:
        raise SteppeError("at least one task", got="none", way_out=f"--tasks {','.join(SEVEN)}")
    for task in tasks:
        if not manager.match_tasks([task]):
            raise SteppeError(
                "a task must be one that lm-eval knows",
                got=repr(task),
                way_out="lm-eval ls tasks shows them; --task-folder adds your own",
            )
    wrapped = hugging.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
    try:
        done = lm_eval.simple_evaluate(
            model=wrapped,
            tasks=list(tasks),
            num_fewshot=0,
            task_manager=manager,
            limit=limit,
            log_samples=False,
            bootstrap_iters=0,
        )
    except (OSError, ValueError) as error:  # no network, no such dataset, no such split
        raise SteppeError(
            "a task's data must be reachable",
            got=f"{', '.join(tasks)} ({type(error).__name__}: {str(error)[:200]})",
            way_out="check the network, or name tasks of a local --task-folder",
        ) from error
    return _summary(done) | {"limit": limit}


def _summary(done: dict[str, Any]) -> dict[str, Any]:
    counts = done.get("n-samples", {})
    per_task: dict[str, dict[str, Any]] = {}
    for task, metrics in done["results"].items():
        # lm-eval writes "acc,none": the metric and the filter of the answers
        own = {
            key.removesuffix(",none"): float(value)
            for key, value in metrics.items()
            if "," in key and isinstance(value, int | float)
        }
        per_task[task] = own | {"samples": counts.get(task, {}).get("effective")}
    scores = [own["acc"] for own in per_task.values() if "acc" in own]
    return {
        "tasks": per_task,
        "accuracy": sum(scores) / len(scores) if scores else None,
        "lm_eval": str(done.get("lm_eval_version", "unknown")),
    }
