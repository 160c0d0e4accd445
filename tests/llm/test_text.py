"""Text: files, folders, datasets; what is wrong is said in one line."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steppe.core.errors import SteppeError
from steppe.llm.calibration_windows import windows
from steppe.llm.text import read, tokenize, too_short


def test_files_of_each_kind(tmp_path: Path) -> None:
    rows = [{"text": "one", "other": "1"}, {"text": "two", "other": "2"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.txt").write_text("zero")
    (tmp_path / "b.jsonl").write_text(lines + "\n")
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    (tmp_path / "e.raw").write_bytes(b"\xef\xbb\xbfnaught\r\n")
    assert read(tmp_path / "a.txt").joined() == "zero"
    for name in ("b.jsonl", "c.json.gz", "d.parquet"):
        corpus = read(str(tmp_path / name))
        assert list(corpus.documents) == ["one", "two"]
        assert not corpus.long
        assert read(f"{tmp_path / name}:other").joined() == "1\n\n2"
    assert read(tmp_path / "e.raw").joined() == "naught\n"
    folder = read(tmp_path)
    assert list(folder.documents) == ["zero", *["one", "two"] * 3]


def test_a_packed_text_is_one_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("caf\u00e9 ".encode() * 9, mtime=0))
    corpus = read(path)
    assert corpus.long
    assert corpus.joined() == "caf\u00e9 " * 9
    drawn = windows(
        path, lambda text, **_: {"input_ids": list(map(ord, text))}, samples=2, window=4
    )
    assert drawn.tokens.shape == (2, 4)


def test_a_folder_of_plain_text_is_one_text_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    corpus = read(tmp_path)
    assert corpus.long
    assert corpus.joined() == "a\n\nb\n\nc"


def test_the_order_of_documents_depends_on_the_seed_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(30)))
    corpus = read(path)
    orders = [list(corpus.shuffled(seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(corpus.documents)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.txt", None, r"readable file.*absent\.txt \(No such file"),
        ("empty.txt", b" \n", "must not be empty"),
        ("latin.txt", "caf\u00e9".encode("latin-1"), "must be UTF-8.*byte 3 is 0xe9"),
        ("bad.jsonl", b'{"text": "a"}\n{oops\n', r"bad\.jsonl, line 2"),
        ("list.jsonl", b"[1]\n", "'text'.*none in"),
        ("field.jsonl", b'{"body": "a", "n": 1}\n', r"'text'; got body, n in .*:body"),
        ("bad.parquet", b"PAR1", r"\.parquet file must be readable"),
        ("cut.json.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "readable file"),
    ],
)
def test_what_is_wrong_with_a_file(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SteppeError, match=said) as raised:
        read(str(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_unknown_parquet_fields_and_values_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1], "body": ["x"]}), path)
    with pytest.raises(SteppeError, match=r"'text'; got n, body.*:body"):
        read(path)
    pq.write_table(pa.table({"text": ["x", None]}), path)
    with pytest.raises(SteppeError, match="row 1"):
        read(path)


def test_folders_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"1")
    with pytest.raises(SteppeError, match=r"must hold files that end with \.txt"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    path.chmod(0)
    with pytest.raises(SteppeError, match="Permission denied"):
        read(path)


class Table:
    """What ``load_dataset(streaming=True)`` gives, as far as it is used."""

    def __init__(self, rows: list[dict[str, Any]], fails_at: int | None = None) -> None:
        self.rows, self.fails_at = rows, fails_at

    def __iter__(self) -> Any:
        for number, row in enumerate(self.rows):
            if number == self.fails_at:
                raise ConnectionResetError("lost")
            yield row

    def shuffle(self, seed: int, buffer_size: int) -> Table:
        return Table(self.rows[::-1] if seed else self.rows)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands in for the hub: notes the calls, gives what it is told to."""
    import datasets

    class Hub:
        calls: list[tuple[Any, ...]] = []
        table: Any = Table([{"text": str(i), "body": f"b{i}"} for i in range(1200)])

        def __call__(self, name: str, config: Any = None, **options: Any) -> Any:
            self.calls.append((name, config, options))
            if isinstance(self.table, Exception):
                raise self.table
            return self.table

    stand_in = Hub()
    stand_in.calls = []
    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    return stand_in


def test_short_names_read_as_the_papers_do(hub: Any) -> None:
    assert read("wikitext2").joined().startswith("0 1 2 ")
    assert read("wikitext2", "test").joined().startswith("0\n\n1\n\n2")
    c4, c4_test = read("c4"), read("c4", "test")
    assert not c4.long
    assert c4_test.windows == 256
    assert len(list(c4_test.documents)) == len(list(c4_test.documents)) == 1100
    assert len(list(c4.documents)) == 1200
    assert next(c4.shuffled(1)) == "1199"
    names = [(name, config, options["split"]) for name, config, options in hub.calls]
    assert names == [
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "train"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
        ("allenai/c4", None, "train"),
        ("allenai/c4", None, "validation"),
    ]
    assert all(options["streaming"] for _, _, options in hub.calls)
    assert hub.calls[2][2]["data_files"]["train"] == "en/c4-train.00000-of-01024.json.gz"


def test_any_dataset_with_config_split_and_field(hub: Any) -> None:
    assert read("me/mine:big:dev:body").joined().startswith("b0\n\nb1")
    assert read("me/mine::dev").joined().startswith("0\n\n1")
    read("me/mine", "test")
    calls = [(name, config, options) for name, config, options in hub.calls]
    assert calls == [
        ("me/mine", "big", {"split": "dev", "streaming": True}),
        ("me/mine", None, {"split": "dev", "streaming": True}),
        ("me/mine", None, {"split": "test", "streaming": True}),
    ]


def test_hub_failures_are_one_line(hub: Any) -> None:
    with pytest.raises(SteppeError, match=r"text field 'tex'.*row 0.*:text"):
        read("me/mine:::tex").joined()
    hub.table = Table(hub.table.rows, fails_at=2)
    with pytest.raises(SteppeError, match=r"'me/mine' \(ConnectionResetError: lost\).*network"):
        read("me/mine").joined()
    hub.table = FileNotFoundError("no such dataset")
    with pytest.raises(SteppeError, match="could not be read from the hub"):
        read("me/mine")


def test_without_a_network_the_real_library_is_one_line() -> None:
    with pytest.raises(SteppeError, match="give a text file") as raised:
        read("nobody/nothing-at-all").joined()
    assert "\n" not in str(raised.value)


def test_a_tokenizer_that_fails_is_one_line() -> None:
    def damaged(text: str, **options: Any) -> Any:
        raise TypeError("'>' not supported between\ninstances of 'int' and 'str'")

    with pytest.raises(SteppeError, match="turn text into tokens; got TypeError") as refused:
        tokenize(damaged, "a text", whole=True)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("tokens", "window", "offered"),
    [(4, 2048, ""), (64, 2048, "--window 64"), (63, 256, ""), (63, 252, "--window 63"), (1, 2, "")],
)
def test_only_a_window_of_use_is_offered(tokens: int, window: int, offered: str) -> None:
    said = str(too_short("a.txt", tokens, window, 0))
    assert said.endswith(
        f"Way out: {offered}{', or a longer text' if offered else 'a longer text'}"
    )
