"""Numbers as people write them in YAML."""

import pytest
import yaml

from steppe.core.text import read_yaml


@pytest.mark.parametrize("text", ["1e-4", "1E5", "-2e+3", "3.e2", "1.5e-3", "10", "0.5", "-1"])
def test_numbers(text):
    parsed = read_yaml(f"a: {text}")["a"]
    assert not isinstance(parsed, str)
    assert parsed == float(text)


@pytest.mark.parametrize("text", ["e5", "1e", "a1e-4", "'1e-4'", "1e-4x"])
def test_texts_stay_texts(text):
    assert isinstance(read_yaml(f"a: {text}")["a"], str)


def test_what_is_written_is_read_back():
    plain = {"a": 1e-5, "b": [3, 1e20, None], "c": "x", "d": True}
    assert read_yaml(yaml.safe_dump(plain)) == plain


def test_no_python_objects():
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.getcwd []")
