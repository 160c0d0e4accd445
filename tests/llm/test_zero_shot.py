"""Zero-shot tasks: what is asked of lm-eval, and what is made of its answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.llm.load import load
from steppe.llm.zero_shot import SEVEN, zero_shot


class Harness:
    """Stands in for lm-eval, as far as it is used."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.fails: Exception | None = None

    def simple_evaluate(self, **asked: Any) -> dict[str, Any]:
        self.asked = asked
        if self.fails is not None:
            raise self.fails
        return {
            "results": {
                "one": {"alias": "one", "acc,none": 0.5, "acc_stderr,none": "N/A"},
                "two": {"acc,none": 0.75, "acc_norm,none": 0.8},
                "three": {"exact_match,strict": 0.1},
            },
            "n-samples": {"one": {"original": 9, "effective": 4}},
            "lm_eval_version": "0.4.x",
        }


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    stand_in = Harness()

    class Manager:
        def __init__(self, include_path: str | None) -> None:
            stand_in.asked["folder"] = include_path

        def match_tasks(self, names: list[str]) -> list[str]:
            return [n for n in names if n in {"one", "two", "three", *SEVEN}]

    parts: dict[str, dict[str, Any]] = {
        "lm_eval": {"simple_evaluate": stand_in.simple_evaluate},
        "lm_eval.tasks": {"TaskManager": Manager},
        "lm_eval.models": {},
        "lm_eval.models.huggingface": {"HFLM": lambda **options: options},
    }
    for name, members in parts.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in


def test_metrics_and_the_mean_accuracy(harness: Harness) -> None:
    got = zero_shot("model", "tokenizer", ["one", "two", "three"], limit=4, batch=2)
    assert got["tasks"]["one"] == {"acc": 0.5, "samples": 4}
    assert got["tasks"]["two"] == {"acc": 0.75, "acc_norm": 0.8, "samples": None}
    assert got["tasks"]["three"] == {"exact_match,strict": 0.1, "samples": None}
    assert got["accuracy"] == 0.625
    assert (got["lm_eval"], got["limit"]) == ("0.4.x", 4)
    asked = harness.asked
    assert asked["model"] == {"pretrained": "model", "tokenizer": "tokenizer", "batch_size": 2}
    assert (asked["tasks"], asked["num_fewshot"]) == (["one", "two", "three"], 0)
    assert asked["limit"] == 4
    json.dumps(got)


def test_the_seven_tasks_are_the_default(harness: Harness) -> None:
    zero_shot("model", "tokenizer")
    assert harness.asked["tasks"] == list(SEVEN)


def test_unknown_tasks_and_data_out_of_reach(harness: Harness) -> None:
    with pytest.raises(SteppeError, match="lm-eval knows; got 'wun'"):
        zero_shot("model", "tokenizer", ["one", "wun"])
    with pytest.raises(SteppeError, match="at least one task"):
        zero_shot("model", "tokenizer", [])
    harness.fails = ConnectionError("no hub")
    with pytest.raises(SteppeError, match=r"one \(ConnectionError: no hub\)"):
        zero_shot("model", "tokenizer", ["one"])


def test_with_the_real_harness(language_model: Path, tmp_path: Path) -> None:
    """A local task whose answers are those that the model itself finds likelier."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra zero-shot)")
    import torch

    model, tokenizer = load(str(language_model))
    rows, questions = [], ["a b c", "d e", "f g h i", "k"]
    for question in questions:
        ids = torch.tensor([tokenizer(question)["input_ids"]])
        logits = model(ids).logits[0, -1]
        likelier = int(
            logits[tokenizer("x")["input_ids"][0]] < logits[tokenizer("y")["input_ids"][0]]
        )
        rows.append({"question": question, "choices": ["x", "y"], "answer": likelier})
    rows[0]["answer"] = 1 - rows[0]["answer"]  # one of four is wrong
    data = tmp_path / "toy.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "toy.yaml").write_text(
        f"""
task: toy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
    )
    got = zero_shot(model, tokenizer, ["toy"], task_folder=tmp_path)
    assert got["tasks"]["toy"] == {"acc": 0.75, "samples": 4}
    assert got["accuracy"] == 0.75
