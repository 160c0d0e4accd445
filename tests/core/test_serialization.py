"""State on disk: whole, or as it was before."""

import pytest
import torch

from steppe import SteppeError
from steppe.core.serialization import atomic, load_state, read_json, save_state, sweep, write_text

TREE = {
    "state": {0: {"step": torch.tensor(3.0), "buffer": torch.randn(3, 2)}, 7: {}},
    "groups": [{"lr": 0.1, "betas": (0.9, 0.95), "foreach": None, "params": [0, 1]}],
    "nested": ([], (), {"": [1, "a", True, -2.5e-300]}, float("inf")),
    "tensor": torch.zeros(0, 4),
    "dtypes": [torch.ones(2, dtype=d) for d in (torch.bool, torch.bfloat16, torch.uint8)],
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(k) for k in a] == [type(k) for k in b]
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


def test_read_back_as_written(tmp_path):
    save_state(tmp_path / "a" / "b.safetensors", TREE)
    same(load_state(tmp_path / "a" / "b.safetensors"), TREE)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_states_of_optimizers(make, tmp_path):
    p = torch.nn.Parameter(torch.randn(3))
    optimizer = make([{"params": [p], "lr": 0.1}])
    p.sum().backward()
    optimizer.step()
    save_state(tmp_path / "state", optimizer.state_dict())
    same(load_state(tmp_path / "state"), optimizer.state_dict())


def test_tensors_that_share_memory(tmp_path):
    base = torch.arange(6.0)
    save_state(tmp_path / "t", {"a": base[:4], "b": base[2:], "c": base.reshape(2, 3).t()})
    same(load_state(tmp_path / "t"), {"a": base[:4], "b": base[2:], "c": base.reshape(2, 3).t()})


def test_only_plain_values(tmp_path):
    with pytest.raises(AssertionError, match="no plain state"):
        save_state(tmp_path / "t", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    write_text(path, "before")

    def fail():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError("no space left")

    with pytest.raises(SteppeError, match="no space left"):
        fail()
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_text_in_utf_8(tmp_path):
    write_text(tmp_path / "new" / "file", "lr ≤ 0.1")
    assert (tmp_path / "new" / "file").read_bytes() == "lr ≤ 0.1".encode()


@pytest.mark.parametrize("text", ["", "[]", "null", "{", b"\xff\xfe", None])
def test_json_that_is_no_object_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    if text is None:
        path.mkdir()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SteppeError, match=r"as it was written; got .*a\.json"):
        read_json(path)


def test_a_json_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json") == {"a": [1]}


def test_what_a_killed_process_was_writing_is_swept(tmp_path):
    inner = tmp_path / "checkpoints"
    inner.mkdir()
    left = [tmp_path / ".tmp4EBfGz", inner / ".state.safetensors.a1.partial", inner / ".tmpaaaaaa"]
    kept = [tmp_path / "model.safetensors", tmp_path / ".tmp", tmp_path / ".tmpfolderx" / "mine"]
    kept[-1].parent.mkdir()
    for path in (*left, *kept):
        path.write_bytes(b"")
    sweep(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)
