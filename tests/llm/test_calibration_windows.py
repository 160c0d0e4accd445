"""Calibration windows: drawn as the papers' loaders draw them, described, checked."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steppe.core.errors import SteppeError
from steppe.llm import calibration_windows
from steppe.llm.calibration_windows import check_vocabulary, windows


def letters(text: str, **_: Any) -> dict[str, list[int]]:
    return {"input_ids": [ord(c) for c in text]}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("".join(chr(97 + i * i % 26) for i in range(300)))
    return path


def test_windows_of_one_text_are_those_of_the_papers_loader(text: Path) -> None:
    tokens = torch.tensor(letters(text.read_text())["input_ids"])
    random.seed(3)
    expected = []
    for _ in range(5):
        i = random.randint(0, len(tokens) - 20 - 1)
        expected.append(tokens[i : i + 20])
    state = random.getstate()
    got = windows(text, letters, samples=5, window=20, seed=3)
    assert random.getstate() == state, "the user's own draws go on undisturbed"
    assert torch.equal(got.tokens, torch.stack(expected))
    assert got.tokens.dtype == torch.int64
    described = got.description
    assert described["text_tokens"] == 300
    assert described["drawn_from"] == "text"
    assert (described["samples"], described["window"], described["seed"]) == (5, 20, 3)
    json.dumps(described)


def test_the_digest_is_that_of_the_tokens(text: Path) -> None:
    digests = [
        windows(text, letters, samples=5, window=20, seed=seed).description["sha256"]
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]
    little_endian = hashlib.sha256(struct.pack("<2q", 1, 2)).hexdigest()
    assert windows(torch.tensor([[1, 2]])).description["sha256"] == little_endian


def test_the_smallest_text_that_fits(text: Path) -> None:
    assert windows(text, letters, samples=2, window=299).tokens.shape == (2, 299)
    with pytest.raises(SteppeError, match=r"300 tokens in .*a\.txt.*--window 299"):
        windows(text, letters, samples=2, window=300)


def documents(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def test_only_documents_longer_than_the_window_are_drawn_from(tmp_path: Path) -> None:
    texts = ["ab" * 3, *(chr(97 + i) * 30 for i in range(20)), "z" * 10]
    path = documents(tmp_path / "a.jsonl", texts)
    got = windows(path, letters, samples=12, window=10, seed=1)
    assert got.description["drawn_from"] == "documents"
    assert all(len(set(row)) == 1 for row in got.tokens.tolist()), "a window lies in one document"
    assert len({row[0] for row in got.tokens.tolist()}) == 12, "each document gives one window"
    assert torch.equal(got.tokens, windows(path, letters, samples=12, window=10, seed=1).tokens)
    other = windows(path, letters, samples=12, window=10, seed=2).tokens
    assert not torch.equal(got.tokens, other)


def test_too_few_documents_are_used_again_at_other_starts(tmp_path: Path) -> None:
    path = documents(tmp_path / "a.jsonl", ["".join(map(chr, range(100, 200))), "short"])
    got = windows(path, letters, samples=6, window=10).tokens
    assert len({tuple(row) for row in got.tolist()}) > 1


def test_short_documents_are_joined(tmp_path: Path) -> None:
    path = documents(tmp_path / "a.jsonl", ["abc"] * 20)
    got = windows(path, letters, samples=2, window=30)
    assert got.description["drawn_from"] == "text"
    assert got.description["text_tokens"] == 20 * 3 + 19 * 2
    with pytest.raises(SteppeError, match="98 tokens"):
        windows(path, letters, samples=2, window=300)


def test_a_stream_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_windows, "LOOK", 7)
    path = documents(tmp_path / "a.jsonl", [*["ab"] * 100])
    assert windows(path, letters, samples=2, window=20).description["text_tokens"] == 7 * 2 + 6 * 2


def test_tokens_are_used_as_they_are(tmp_path: Path) -> None:
    tokens = torch.arange(12).view(3, 4)
    got = windows(tokens, samples=99, window=99)
    assert got.tokens is tokens
    assert (got.description["samples"], got.description["window"]) == (3, 4)
    path = tmp_path / "tokens.safetensors"
    save_file({"tokens": tokens}, path)
    stored = windows(path)
    assert torch.equal(stored.tokens, tokens)
    assert stored.description["sha256"] == got.description["sha256"]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (torch.zeros(3, 4), r"int64.*torch\.float32"),
        (torch.zeros(4, dtype=torch.int32), "int32"),
        (torch.zeros(4, dtype=torch.int64), r"shape \[4\]"),
        (torch.zeros(0, 4, dtype=torch.int64), r"shape \[0, 4\]"),
        (torch.zeros(4, 1, dtype=torch.int64), "two tokens"),
    ],
)
def test_what_is_no_tensor_of_tokens(tokens: torch.Tensor, said: str) -> None:
    with pytest.raises(SteppeError, match=said):
        windows(tokens)


def test_files_of_tokens_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match="readable safetensors"):
        windows(tmp_path / "absent.safetensors")
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(SteppeError, match="readable safetensors"):
        windows(path)
    save_file({"ids": torch.zeros(2, 2)}, path)
    with pytest.raises(SteppeError, match="under the name tokens; got ids"):
        windows(path)


@pytest.mark.parametrize("options", [{"samples": 0}, {"window": 1}])
def test_sizes_are_checked(text: Path, options: dict[str, int]) -> None:
    with pytest.raises(SteppeError, match="at least one sample"):
        windows(text, letters, **options)


@pytest.mark.parametrize(("token", "fine"), [(0, True), (9, True), (10, False), (-1, False)])
def test_a_tokenizer_that_does_not_fit(token: int, fine: bool) -> None:
    tokens = torch.tensor([[1, token]])
    if fine:
        check_vocabulary(tokens, 10)
        return
    with pytest.raises(SteppeError, match=f"token {token}.*does not fit the model"):
        check_vocabulary(tokens, 10)


def test_special_tokens_stay_as_the_tokenizer_puts_them(
    language_model: Path, word_text: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokenizer.model_max_length = 16  # shorter than the text: no warning, nothing is cut
    got = windows(word_text, tokenizer, samples=3, window=32)
    assert got.description["text_tokens"] == 500
