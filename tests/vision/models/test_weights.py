import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from steppe.core.errors import SteppeError
from steppe.vision.models import build, load_weights, start_from


@pytest.fixture
def small():
    torch.manual_seed(1)
    return build("small-cnn", 10, (1, 8, 8))


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_saved_model_comes_back_bit_for_bit(small, tmp_path, as_folder):
    save_file(small.state_dict(), tmp_path / "model.safetensors")
    other = build("small-cnn", 10, (1, 8, 8))
    back = load_weights(other, tmp_path if as_folder else tmp_path / "model.safetensors")
    assert back is other
    for key, value in small.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_the_batch_counter_may_be_absent(small, tmp_path):
    state = {k: v for k, v in small.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "model.safetensors")
    other = load_weights(build("small-cnn", 10, (1, 8, 8)), tmp_path).state_dict()
    assert all(torch.equal(other[key], value) for key, value in state.items())
    assert all(other[key] == 0 for key in other.keys() - state.keys())


def test_tied_weights_may_be_stored_once(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    model, other = tied(), tied()
    save_model(model, str(tmp_path / "model.safetensors"))
    load_weights(other, tmp_path)
    assert torch.equal(other[1].weight, model[0].weight)


def test_missing_and_unexpected_names_are_both_told_and_nothing_changes(small, tmp_path):
    state = small.state_dict()
    state["head.weight"] = state.pop("linear.weight").clone() + 1
    save_file(state, tmp_path / "model.safetensors")
    fresh = build("small-cnn", 10, (1, 8, 8))
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    with pytest.raises(SteppeError, match=r"missing linear.weight; unexpected head.weight"):
        load_weights(fresh, tmp_path)
    assert all(torch.equal(before[k], v) for k, v in fresh.state_dict().items())


def test_another_shape_is_told_with_both_shapes(small, tmp_path):
    save_file(small.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(SteppeError, match=r"linear.bias must have shape \[3\]; got \[10\]"):
        load_weights(build("small-cnn", 3, (1, 8, 8)), tmp_path)
    (tmp_path / "removal.json").touch()
    with pytest.raises(SteppeError, match=r"Channels were removed there.*steppe remove was given"):
        load_weights(build("small-cnn", 3, (1, 8, 8)), tmp_path)


def test_no_file_and_no_safetensors(small, tmp_path):
    with pytest.raises(
        SteppeError, match=r"There is no such file.*Way out: the folder of a finished"
    ):
        load_weights(small, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(SteppeError, match="safetensors format"):
        load_weights(small, tmp_path)


def test_a_head_for_other_classes_stays_and_is_named(small, tmp_path):
    save_file(small.state_dict(), tmp_path / "model.safetensors")
    other = build("small-cnn", 3, (1, 8, 8))
    head = other.linear.weight.clone()
    said = start_from(other, tmp_path)
    assert said == [
        f"{tmp_path} is for 10 classes and the data have 3: linear.weight, linear.bias start at "
        "random"
    ]
    assert torch.equal(other.linear.weight, head)
    assert torch.equal(other.conv3.weight, small.conv3.weight)
    same = build("small-cnn", 10, (1, 8, 8))
    assert start_from(same, tmp_path) == []
    assert torch.equal(same.linear.weight, small.linear.weight)


def test_only_the_head_may_be_of_another_shape(small, tmp_path):
    save_file(small.state_dict(), tmp_path / "model.safetensors")
    wider = build("small-cnn", 3, (1, 8, 8), channels=(16, 32, 80))
    with pytest.raises(SteppeError, match=r"must have shape .* the width, in_shape"):
        start_from(wider, tmp_path)
    state = {k: t for k, t in small.state_dict().items() if not k.startswith("linear.")}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(SteppeError, match=r"missing linear\.weight"):
        start_from(small, tmp_path)
