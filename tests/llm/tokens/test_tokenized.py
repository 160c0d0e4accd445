"""Tokens of whole texts: exact, kept by content, taken up after a kill."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.engine.progress import watched
from steppe.llm import text_files
from steppe.llm.kept import kept
from steppe.llm.text import read, tokenize
from steppe.llm.tokens import seam, store
from steppe.llm.tokens import tokenized as module
from steppe.llm.tokens.tokenized import tokenized
from tokenizer_kinds import fast, gpt2, page, unigram


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return fast(gpt2(), begins=True)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces, calls, blocks and shards so small that a page has many of each."""
    monkeypatch.setattr(seam, "PIECE", 50)
    monkeypatch.setattr(text_files, "BLOCK", 701)
    monkeypatch.setattr(store, "SHARD", 300)
    together = module.together
    monkeypatch.setattr(module, "together", lambda parts: together(parts, 400))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + page(6000).encode())
    return path


def ids(source: Any, tokenizer: Any, **options: Any) -> torch.Tensor:
    made = tokenized(source, tokenizer, **options)
    assert made.description["tokens"] == len(made.store)
    return made.store.read(0, len(made.store))


def documents(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t, "n": 1}) + "\n" for t in texts))
    return path


def test_a_long_text_is_tokenised_as_one(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    whole = tokenize(tokenizer, read(text).joined())
    assert torch.equal(ids(text, tokenizer), whole)
    assert len(tokenized(text, tokenizer).store.index.shards) > 3
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes(), mtime=0))
    assert torch.equal(ids(packed, tokenizer), whole)
    slow = fast(unigram())  # which is never cut
    assert torch.equal(ids(text, slow), tokenize(slow, read(text).joined()))


def test_a_folder_of_long_texts_is_one_text(tmp_path: Path, tokenizer: Any) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(page(2000, i))
    assert torch.equal(ids(tmp_path, tokenizer), tokenize(tokenizer, read(tmp_path).joined()))


def test_documents_end_with_the_token_that_ends_a_text(tmp_path: Path, tokenizer: Any) -> None:
    texts = [page(300, 1), "", " \n", "short", page(900, 2), "ends </s>"]
    expected: list[int] = []
    for one in texts:
        if one.strip():
            own = tokenizer(one)["input_ids"]
            expected += own + [tokenizer.eos_token_id] * (own[-1] != tokenizer.eos_token_id)
    path = documents(tmp_path / "a.jsonl", texts)
    assert ids(path, tokenizer).tolist() == expected
    pq.write_table(pa.table({"text": texts}), tmp_path / "b.parquet", row_group_size=2)
    assert ids(tmp_path / "b.parquet", tokenizer).tolist() == expected
    endless = fast(gpt2(), begins=True, ends=False)
    rows = [endless(one)["input_ids"] for one in texts if one.strip()]
    assert ids(path, endless).tolist() == [i for row in rows for i in row]


def test_it_is_known_by_content_and_tokenizer(
    text: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ids(text, tokenizer)
    monkeypatch.setattr(module, "encoded", None)  # nothing can be tokenised any more
    other = tmp_path / "elsewhere.txt"
    other.write_bytes(text.read_bytes())
    tokenizer(["a", "b c"], padding=False, truncation=True, max_length=2)  # leaves its mark
    assert torch.equal(ids(other, tokenizer), first)
    changed = text.read_bytes().replace(b"cat", b"rat", 1)
    date = text.stat()
    text.write_bytes(changed)
    import os

    os.utime(text, ns=(date.st_atime_ns, date.st_mtime_ns))
    with pytest.raises(TypeError):  # of the same size and date, yet another text
        ids(text, tokenizer)
    with pytest.raises(TypeError):
        ids(other, fast(gpt2()))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["one text", "documents"])
def test_after_a_kill_it_goes_on_where_it_was(
    kind: str, text: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = text
    if kind == "documents":
        source = documents(tmp_path / "a.jsonl", [page(170 * i, i) for i in range(9)])
    undisturbed = ids(source, fast(gpt2(), begins=True))
    for folder in kept("tokens").iterdir():
        folder.rename(tmp_path / folder.name)
    encoded, calls = module.encoded, list[int]()

    def counted(*args: Any) -> Any:
        calls.append(len(args[2]))
        if len(calls) in (4, 9):
            raise Killed
        return encoded(*args)

    monkeypatch.setattr(module, "encoded", counted)
    for _ in range(2):
        with pytest.raises(Killed):
            tokenized(source, tokenizer)
    assert torch.equal(ids(source, tokenizer), undisturbed)
    once = len(calls)
    assert once < 2 * (len(read(source).joined()) / 400 + 2), "what was kept is not done again"


def test_a_text_that_changes_meanwhile(
    text: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = text.read_bytes()
    encoded = module.encoded

    def changing(*args: Any) -> Any:
        text.write_bytes(original.replace(b"mat", b"hat"))
        return encoded(*args)

    monkeypatch.setattr(module, "encoded", changing)
    with pytest.raises(SteppeError, match="changed meanwhile"):
        tokenized(text, tokenizer)
    monkeypatch.setattr(module, "encoded", encoded)
    text.write_bytes(original)
    assert torch.equal(ids(text, tokenizer), tokenize(tokenizer, read(text).joined()))


def test_a_stream_is_read_as_far_as_it_is_needed(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    texts = [page(200, i) + "." for i in range(40)]
    documents(tmp_path / "a.jsonl", texts)
    local = datasets.load_dataset(
        "json", data_files=str(tmp_path / "a.jsonl"), split="train", streaming=True
    )
    taken = [0]

    class Counted:
        def __iter__(self) -> Iterator[Any]:
            for row in local:
                taken[0] += 1
                yield row

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: Counted())
    with pytest.raises(SteppeError, match=r"--tokens 50M"):
        tokenized("me/mine", tokenizer)
    some = ids("me/mine", tokenizer, at_least=400)
    assert 400 <= len(some) < 1500
    assert 0 < taken[0] < 20
    seen = taken[0]
    assert torch.equal(ids("me/mine", tokenizer, at_least=300), some)
    assert taken[0] == seen, "it is there"
    more = ids("me/mine", tokenizer, at_least=2000)
    assert torch.equal(more[: len(some)], some)
    every = ids("me/mine", tokenizer, at_least=10**9)
    ended = [[*tokenizer(one)["input_ids"], tokenizer.eos_token_id] for one in texts]
    assert every.tolist() == [i for row in ended for i in row]
    assert torch.equal(every[: len(more)], more)


def test_those_who_watch_see_megabytes(
    text: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEGABYTE", 1000)
    seen: list[Any] = []
    with watched(lambda *step: seen.append(step)):
        tokenized(text, tokenizer)
    title, done, _, unit = seen[-2]
    assert (title, unit) == (f"tokenising {text}", "MB")
    assert seen[0][1] == 0
    assert done >= text.stat().st_size // 1000 - 1
    assert {step[2] for step in seen[1:-1]} == {text.stat().st_size // 1000 + 1}
