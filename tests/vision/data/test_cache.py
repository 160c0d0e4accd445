import torch

from steppe.vision.data.base import Rows
from steppe.vision.data.cache import decoded, stamp


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
