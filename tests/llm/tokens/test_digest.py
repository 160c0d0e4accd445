"""Hashes: of contents, and of what a tokenizer is."""

from __future__ import annotations

from pathlib import Path

from steppe.llm.tokens.digest import of_files, of_tokenizer
from tokenizer_kinds import fast, gpt2, gpt4


def test_contents_count_and_names_do_not(tmp_path: Path) -> None:
    for name, content in (("a.txt", "ab"), ("b.txt", "ab"), ("c.txt", "a"), ("d.txt", "b")):
        (tmp_path / name).write_text(content)
    a, b, c, d = (tmp_path / f"{x}.txt" for x in "abcd")
    assert of_files([a]) == of_files([b])
    different = [[a], [c], [a, c], [c, a], [c, d], [a, b], []]
    assert len({of_files(files) for files in different}) == len(different)


def test_a_tokenizer_is_what_it_does_to_text(tmp_path: Path) -> None:
    one = fast(gpt2())
    same = fast(gpt2())
    same(["a"], truncation=True, max_length=3)
    assert of_tokenizer(one) == of_tokenizer(same)
    same.save_pretrained(tmp_path)
    others = [fast(gpt2(), begins=True), fast(gpt2(), ends=False), fast(gpt4()), one]
    assert len({of_tokenizer(other) for other in others}) == 4
