import json

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.models import build, from_pretrained, logits

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
    said = []
    model = build(str(path), 3, say=said.append)
    (note,) = said
    assert "is for 5 classes and the data have 3: its head starts at random" in note
    assert "(classifier.1.bias, classifier.1.weight)" in note
    assert logits(model, torch.randn(2, 3, 16, 16)).shape == (2, 3)
    for key, value in saved.resnet.state_dict().items():
        assert torch.equal(value, model.resnet.state_dict()[key]), key


def test_a_config_alone_says_how_to_start_at_random(folder):
    path, _ = folder
    (path / "model.safetensors").unlink()
    with pytest.raises(SteppeError, match=r"config alone.*model\.pretrained=false"):
        from_pretrained(str(path))
    assert from_pretrained(str(path), pretrained=False) is not None


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
    # the same where the head is new: only the head may start at random
    for classes in (5, 3):
        with pytest.raises(SteppeError, match=gone.replace(".", r"\.")):
            build(str(path), classes)


def test_a_checkpoint_without_a_head_gets_one_and_says_so(folder):
    from safetensors.torch import load_file, save_file

    path, _ = folder
    state = {k: t for k, t in load_file(path / "model.safetensors").items() if "classif" not in k}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    for classes in (5, 3):
        with pytest.warns(UserWarning, match="has no head: its head starts at random"):
            model = build(str(path), classes)
        assert logits(model, torch.randn(1, 3, 16, 16)).shape == (1, classes)


def test_an_architecture_starts_at_random_and_seeded(folder):
    path, saved = folder
    (path / "model.safetensors").unlink()  # nothing but the config is read
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    states, said = [], []
    for seed in (2, 2, 3):
        torch.manual_seed(seed)
        model = build(str(path), 3, pretrained=False, say=said.append)
        states.append(model.state_dict())
    assert said == []
    assert logits(model, torch.randn(2, 3, 16, 16)).shape == (2, 3)
    assert {t.dtype for t in model.parameters()} == {torch.float32}
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    conv = "resnet.encoder.stages.1.layers.0.layer.1.convolution.weight"
    assert not torch.equal(states[0][conv], states[2][conv])
    assert not torch.equal(states[0][conv], saved.state_dict()[conv])
    # Kaiming by fan-out, as the papers that train this network from scratch start it
    spread = (2 / (states[0][conv][0, 0].numel() * states[0][conv].shape[0])) ** 0.5
    assert float(states[0][conv].std()) == pytest.approx(spread, rel=0.2)


def test_a_random_start_may_be_drawn_by_fan_in(folder):
    path, _ = folder
    torch.manual_seed(0)
    model = build(str(path), 3, pretrained=False, init="fan_in")
    weight = model.resnet.embedder.embedder.convolution.weight  # 3 -> 4, 7 x 7
    assert float(weight.std()) == pytest.approx((2 / (3 * 49)) ** 0.5, rel=0.15)
    with pytest.raises(SteppeError, match=r"init fan_in for .*which is pretrained"):
        build(str(path), 5, init="fan_in")


def test_a_random_start_needs_a_config(tmp_path):
    with pytest.raises(SteppeError, match=r"repository holds config\.json"):
        build(str(tmp_path), 3, pretrained=False)


def test_own_networks_start_at_random_anyway():
    build("resnet8", 3, pretrained=False)
    with pytest.raises(SteppeError, match=r"resnet8 with pretrained: true.*weights:"):
        build("resnet8", 3, pretrained=True)


def test_a_function_of_the_users_is_told():
    with pytest.raises(SteppeError, match="pretrained"):
        build("torch.nn:Flatten", 3, pretrained=False)
