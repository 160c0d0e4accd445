"""Large files: the same texts as when they are read whole, and only what is used is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.llm import calibration_windows, text, text_files
from steppe.llm.calibration_windows import windows
from steppe.llm.text import read
from steppe.llm.text_files import Chained, JsonLines, ParquetRows, Places

TEXTS = [f"{chr(97 + i % 26)} é{'x' * (i * 7 % 23)}\n." for i in range(60)]
FILES = ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt", "folder", "saved", "splits"]


def letters(text: str, **_: Any) -> dict[str, list[int]]:
    return {"input_ids": [ord(c) for c in text]}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as a large one."""
    monkeypatch.setattr(text, "LARGE", 0)


def written(folder: Path, name: str) -> Path:
    from datasets import Dataset, DatasetDict

    path = folder / name
    rows = [{"n": i, "text": t} for i, t in enumerate(TEXTS)]
    lines = "\r\n".join(json.dumps(row) + "\n" * (i % 3) for i, row in enumerate(rows))
    if name == "folder":
        path.mkdir()
        (path / "a.txt").write_text("one\r\ntext", newline="")
        (path / "b.jsonl").write_text(lines, newline="")
        pq.write_table(pa.Table.from_pylist(rows), path / "c.parquet", row_group_size=7)
    elif name == "saved":
        Dataset.from_list(rows).save_to_disk(str(path))
    elif name == "splits":
        DatasetDict(train=Dataset.from_list(rows)).save_to_disk(str(path))
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + lines.encode()))
    elif name.endswith(".jsonl"):
        path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    else:
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode())
    return path


@pytest.mark.parametrize("name", FILES)
def test_the_same_documents_in_the_same_order(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, name)
    small = read(path)
    monkeypatch.setattr(text, "LARGE", 0)
    corpus = read(path)
    assert list(corpus.documents) == list(small.documents)
    assert list(corpus.shuffled(5)) == list(small.shuffled(5))
    assert corpus.joined() == small.joined()
    assert corpus.long == small.long == name.endswith(".txt")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "saved"])
def test_the_windows_of_documents_stay_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, name)
    before = windows(path, letters, samples=9, window=20, seed=2)
    monkeypatch.setattr(text, "LARGE", 0)
    monkeypatch.setattr(calibration_windows, "LARGE", 0)
    after = windows(path, letters, samples=9, window=20, seed=2)
    assert torch.equal(before.tokens, after.tokens)
    assert after.description == before.description


def test_only_what_is_used_is_parsed(large: None, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a" * 50}) + "\n\n{oops\n" + '{"body": "b"}\n')
    documents = read(path).documents
    assert next(iter(documents)) == "a" * 50
    with pytest.raises(SteppeError, match=r"a\.jsonl, line 3"):
        list(documents)
    lines = JsonLines(path, "text")
    with pytest.raises(SteppeError, match=r"'text'; got body in .*, line 4.*:body"):
        lines[2]
    with pytest.raises(IndexError):
        lines[3]


def test_what_is_wrong_with_a_large_file(large: None, tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99, mtime=0)[:-9])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    (tmp_path / "blank.txt").write_bytes(b" \n" * 50)
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["x", None]}), tmp_path / "b.parquet")
    for name, said in {
        "cut.jsonl.gz": "readable file",
        "bad.parquet": "must be readable",
        "latin.jsonl": r"UTF-8; got .*line 1: byte 10 is 0xe9",
        "blank.txt": "must not be empty",
        "a.parquet": "'text'; got body",
        "b.parquet": "row 1",
    }.items():
        with pytest.raises(SteppeError, match=said) as raised:
            list(read(tmp_path / name).documents)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("most", "times"), [(1 << 30, 0), (0, 20)])
def test_rows_in_shuffled_order_do_not_read_a_group_each(
    most: int, times: int, large: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "WHOLE_COLUMN", most)
    corpus, seen, group = read(written(tmp_path, "a.parquet")), [], pq.ParquetFile.read_row_group

    def counted(file: Any, number: int, **options: Any) -> Any:
        seen.append(number)
        return group(file, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert sorted(corpus.shuffled(0)) == sorted(TEXTS)
    assert len(seen) == 0 if times == 0 else len(seen) > times


def test_saved_datasets_by_split_and_field(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    parts = {p: Dataset.from_list([{"body": p}]) for p in ("train", "test")}
    DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    assert read(f"{tmp_path / 'both'}:body").joined() == "train"
    assert read(f"{tmp_path / 'both'}:body", "test").joined() == "test"
    with pytest.raises(SteppeError, match=r"'text'; got body"):
        read(tmp_path / "both").joined()
    DatasetDict(a=parts["test"], b=parts["train"]).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(SteppeError, match=r"split 'train'; got a, b in .*other/a"):
        read(tmp_path / "other")
    (tmp_path / "both" / "train" / "dataset_info.json").unlink()
    with pytest.raises(SteppeError, match="must be whole"):
        read(tmp_path / "both")


def test_places_in_files_are_those_of_the_joined_text(tmp_path: Path) -> None:
    files = []
    for i, content in enumerate(("é" * 9, "", "b\r\nc", "€uro")):
        files.append(tmp_path / f"{i}.txt")
        files[-1].write_text(content, newline="")
    places = Places(files, "\n\n")
    whole = "\n\n".join(f.read_bytes().decode() for f in files)
    data = whole.encode()
    assert places.size == len(data)
    assert places.read(0, places.size) == whole.replace("\r\n", "\n")
    for start in range(places.size):
        for length in (1, 5, 100):
            expected = data[start : start + length].decode(errors="ignore")
            assert places.read(start, length) == expected.replace("\r\n", "\n")
    assert Places(whole).read(3, 4) == whole[3:7]
    files[0].write_bytes(b"abc\xe9d")
    with pytest.raises(SteppeError, match=r"0\.txt: byte 3 is 0xe9"):
        Places(files, "\n\n").read(1, 10)


def test_windows_at_places_are_windows_of_the_text(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    draws = torch.randint(97, 121, (4000,), generator=torch.Generator().manual_seed(1))
    path = tmp_path / "a.txt"
    path.write_text(" ".join(map(chr, draws.tolist())))
    tokens = tokenizer(path.read_text())["input_ids"]
    monkeypatch.setattr(calibration_windows, "LARGE", 1000)
    asked: list[int] = []

    def counted(text: str, **options: Any) -> Any:
        asked.append(len(text))
        return tokenizer(text, **options)

    got = windows(path, counted, samples=6, window=30, seed=1)
    assert got.description["drawn_from"] == "places"
    assert sum(asked) < 6 * 8 * 4 * (30 + 32), "the cost is that of the windows"
    inside = {tuple(tokens[i : i + 30]) for i in range(len(tokens) - 29)}
    rows = [tuple(row) for row in got.tokens.tolist()]
    assert inside.issuperset(rows)
    assert len(set(rows)) == 6
    assert torch.equal(got.tokens, windows(path, counted, samples=6, window=30, seed=1).tokens)
    whole = windows(path, tokenizer, samples=6, window=30, seed=1, whole=True)
    assert whole.description["drawn_from"] == "text"
    assert whole.description["text_tokens"] == len(tokens)
    # nearly all of it: a place near the end moves back
    assert windows(path, tokenizer, samples=2, window=3968).tokens.shape == (2, 3968)
    with pytest.raises(SteppeError, match="longer than the window"):
        windows(path, tokenizer, samples=2, window=3969)


def test_short_documents_without_end_are_drawn_from_at_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_windows, "LARGE", 100)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "abcd"}) + "\n" for _ in range(90)))
    got = windows(path, letters, samples=3, window=30)
    assert got.description["drawn_from"] == "places"
    assert all("".join(map(chr, row)) in "abcd\n\n" * 90 for row in got.tokens.tolist())


def test_sequences_are_sequences(tmp_path: Path) -> None:
    rows = ParquetRows(written(tmp_path, "a.parquet"), "text")
    both = Chained([rows, ["end"]])
    assert len(both) == 61
    assert both[-1] == "end"
    assert both[58:] == [*TEXTS[58:], "end"]


def test_blocks_are_together_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\r\nb\r\r\nd\u00e9\u4f60\U0001f600\r".encode() * 3)
    for size in range(1, 9):
        monkeypatch.setattr(text_files, "BLOCK", size)
        assert "".join(text_files.blocks(path)) == text_files.decoded(path)
    path.write_bytes(b"abcdef\xe9gh")
    for size in (2, 7, 100):
        monkeypatch.setattr(text_files, "BLOCK", size)
        with pytest.raises(SteppeError, match="byte 6 is 0xe9"):
            list(text_files.blocks(path))
