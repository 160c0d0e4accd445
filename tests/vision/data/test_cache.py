import numpy as np
import pytest
import torch
from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.data.base import Rows
from steppe.vision.data.cache import decoded, require_writable, stamp, written
from steppe.vision.data.encoded import Encoded, source
from steppe.vision.data.imagefolder import Files
from steppe.vision.data.levels import Reading


class Counted:
    """Rows that count how often they are decoded."""

    def __init__(self, key="k"):
        self.calls = 0
        self.rows = Rows([0, 1, 2], self.decode, str, lambda: key)

    def decode(self, chosen):
        self.calls += 1
        return torch.tensor(chosen, dtype=torch.uint8).view(-1, 1, 1, 1)


def test_the_second_start_decodes_nothing(tmp_path):
    source = Counted()
    first = decoded(source.rows, [0, 2], tmp_path / "new")
    again = decoded(source.rows, [0, 2], tmp_path / "new")
    assert source.calls == 1
    assert torch.equal(first, again)
    assert [p.suffix for p in (tmp_path / "new").iterdir()] == [".safetensors"]


def test_another_selection_or_content_is_decoded_anew(tmp_path):
    source = Counted()
    decoded(source.rows, [0, 2], tmp_path)
    assert decoded(source.rows, [1], tmp_path).flatten().tolist() == [1]
    assert source.calls == 2
    changed = Counted("other")
    decoded(changed.rows, [0, 2], tmp_path)
    assert changed.calls == 1


def test_a_damaged_file_is_replaced(tmp_path):
    source = Counted()
    expected = decoded(source.rows, [0, 1], tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(decoded(source.rows, [0, 1], tmp_path), expected)
    decoded(source.rows, [0, 1], tmp_path)
    assert source.calls == 2


def test_without_folder_or_key_nothing_is_written(tmp_path):
    source, keyless = Counted(), Counted("")
    decoded(source.rows, [0], None)
    decoded(source.rows, [0], None)
    decoded(keyless.rows, [0], tmp_path)
    assert source.calls == 2
    assert not list(tmp_path.iterdir())


def test_the_stamp_follows_the_file(tmp_path):
    file = tmp_path / "a"
    file.write_text("one")
    before = stamp([file])
    assert stamp([file]) == before
    file.write_text("longer")
    assert stamp([file]) != before


def test_a_cache_that_cannot_be_written_is_one_line_before_anything_is_decoded(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for cache in (tmp_path / "file", tmp_path / "file" / "inside"):
        rows = Counted()
        with pytest.raises(SteppeError, match=r"data\.cache is a folder") as caught:
            decoded(rows.rows, [0], cache)
        assert "\n" not in str(caught.value)
        assert rows.calls == 0
    with pytest.raises(SteppeError, match=r"data\.cache"), written(tmp_path / "new" / "a"):
        raise OSError(28, "No space left on device")
    assert not list((tmp_path / "new").iterdir()), "no half file is left"


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SteppeError, match=f"nothing can be written to {tmp_path}"):
        require_writable(tmp_path)


def test_an_image_that_changes_its_split_is_another_key(tmp_path):
    """The same files in the same order: those of one split end where another number begins."""
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).save(tmp_path / name)

    def keys(count):
        parts = {"train": names[:count], "test": names[count:]}
        made = [
            Encoded(name=part, labels=[0] * len(own), blobs=Files(tmp_path, own))
            for part, own in parts.items()
        ]
        read = source(*made, Reading())
        return read.train.key(), read.test.key()

    assert not set(keys(1)) & set(keys(2))
