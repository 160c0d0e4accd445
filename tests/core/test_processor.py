"""The processor's name and cache."""

from steppe.core import processor


def test_the_largest_cache_that_is_named(tmp_path):
    for name, text in {"index0": "32K\n", "index3": "96M\n", "index9": "?\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text(text)
    assert processor.last_level_cache(tmp_path) == 96 << 20
    (tmp_path / "empty").mkdir()
    assert processor.last_level_cache(tmp_path / "empty") == 32 << 20


def test_there_is_a_name():
    assert processor.processor()
