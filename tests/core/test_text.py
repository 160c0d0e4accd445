"""Numbers as people write them in YAML."""

import pytest
import yaml

from steppe.core.errors import SteppeError
from steppe.core.text import number_or_word, read_yaml


@pytest.mark.parametrize("text", ["1e-4", "1E5", "-2e+3", "3.e2", "1.5e-3", "10", "0.5", "-1"])
def test_numbers(text):
    parsed = read_yaml(f"a: {text}")["a"]
    assert not isinstance(parsed, str)
    assert parsed == float(text)


@pytest.mark.parametrize("text", ["e5", "1e", "a1e-4", "'1e-4'", "1e-4x", "2:4", "1:30.5", "+4:8"])
def test_texts_stay_texts(text):
    assert isinstance(read_yaml(f"a: {text}")["a"], str)


def test_what_is_written_is_read_back():
    plain = {"a": 1e-5, "b": [3, 1e20, None], "c": "x", "d": True}
    assert read_yaml(yaml.safe_dump(plain)) == plain


def test_no_python_objects():
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {b: 1, c: 2, b: 3}", "- {1: x, 1: y}"])
def test_a_key_that_is_there_twice_is_refused(text):
    with pytest.raises(yaml.YAMLError, match="is there twice"):
        read_yaml(text)


def test_keys_of_several_mappings_and_of_merged_ones_are_no_doubles():
    merged = read_yaml("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n")
    assert merged["y"] == {"a": 1, "b": 3}
    assert read_yaml('{1: x, "1": y}') == {1: "x", "1": "y"}


def test_what_is_merged_in_is_no_second_key() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: *a}"
    assert read_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 4}}
    with pytest.raises(yaml.YAMLError, match="y is there twice"):
        read_yaml("a: &a {x: 1}\nb: {<<: *a, y: 3, y: 4}")


@pytest.mark.parametrize(
    "text",
    ["x: {inner: &a {k: 1, k: 2}}\ny: {<<: *a}", "b: {<<: {k: 1, k: 2}}", "- [&a {k: 1, k: 2}]"],
)
def test_a_double_in_what_is_merged_in_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="k is there twice"):
        read_yaml(text)


def test_a_flag_may_be_a_number_or_a_word() -> None:
    given = [None, "auto", "1e-3", "32", "[", "null", "~", "1:30", "no"]
    expected = [None, "auto", 1e-3, 32, "[", "null", "~", "1:30", "no"]
    assert [number_or_word(text) for text in given] == expected
    with pytest.raises(SteppeError, match="a number or a word; got an empty one"):
        number_or_word(" ")
