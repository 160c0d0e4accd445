import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.models import build, logits

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path):
    """A tiny ResNet in the transformers layout."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=5
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_a_local_folder_gives_the_saved_model(folder):
    path, saved = folder
    model, x = build(str(path), 5).eval(), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(logits(model, x), logits(saved, x))


def test_another_number_of_classes_gets_a_new_head_only(folder):
    path, saved = folder
    model = build(str(path), 3)
    assert logits(model, torch.randn(2, 3, 16, 16)).shape == (2, 3)
    for key, value in saved.resnet.state_dict().items():
        assert torch.equal(value, model.resnet.state_dict()[key]), key


def test_pickled_weights_are_not_read(folder):
    path, saved = folder
    (path / "model.safetensors").unlink()
    torch.save(saved.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(SteppeError, match="can load from safetensors"):
        build(str(path), 5)


def test_remote_code_is_not_run(folder):
    path, _ = folder
    (path / "config.json").write_text(
        '{"model_type": "odd", "auto_map": {"AutoConfig": "odd.C"}, "architectures": ["Odd"]}'
    )
    (path / "odd.py").write_text("raise SystemExit('remote code was run')")
    with pytest.raises(SteppeError, match="image classifier that transformers can load"):
        build(str(path), 5)


def test_a_missing_pretrained_weight_is_an_error(folder):
    from safetensors.torch import load_file, save_file

    path, _ = folder
    state = load_file(path / "model.safetensors")
    gone = next(key for key in state if "encoder" in key and key.endswith("weight"))
    del state[gone]
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SteppeError, match=gone.replace(".", r"\.")):
        build(str(path), 5)
