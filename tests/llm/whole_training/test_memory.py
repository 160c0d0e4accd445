"""What a whole training holds, from shapes: bytes of a weight, and what is refused."""

import pytest

import steppe
from steppe import SteppeError
from steppe.llm.model import StreamedModel
from steppe.llm.whole_training.memory import Setting, bytes_of_a_weight, check, lines, needed

ADAM = {"batch": 8, "window": 16, "optimizer": "adam", "options": {}}


def test_what_optimizer_and_coupling_keep_of_a_weight():
    admm = steppe.methods.admm(sparsity=0.5)
    assert bytes_of_a_weight(admm, "adam", {})[0] == 8.0
    assert bytes_of_a_weight(admm, "sgd", {"momentum": 0.9})[0] == 4.0
    assert bytes_of_a_weight(admm, "sgd", {})[0] == 0.0
    assert bytes_of_a_weight(admm, "adam", {})[1] == 4.125
    assert bytes_of_a_weight(steppe.methods.gmp(sparsity=0.5), "adam", {})[1] == 1.0
    assert bytes_of_a_weight(steppe.methods.dense(), "adam", {})[1] == 0.0
    assert bytes_of_a_weight(steppe.methods.pilot(sparsity=0.5), "adam", {})[0] >= 8.0


def test_each_part_follows_from_the_model(language_model):
    source = StreamedModel(str(language_model))
    n, vocabulary = source.parameters(), source.vocabulary
    plain = needed(source, steppe.methods.gmp(sparsity=0.5, budget="uniform"), Setting(**ADAM))
    assert plain["weights"] == plain["gradients"] == 4 * n
    assert plain["the optimizer's state"] == 8 * n
    assert plain["the coupling's state"] == sum(x.numel for x in source.layers())
    assert plain["logits"] == 8 * 8 * 16 * vocabulary
    safe = needed(source, steppe.methods.safe(sparsity=0.5), Setting(**ADAM))
    assert safe["the perturbation"] == 12 * n
    functional = steppe.methods.safe(sparsity=0.5).replace(perturb="functional_sam")
    assert needed(source, functional, Setting(**ADAM))["logits"] == 12 * 8 * 16 * vocabulary
    less = needed(source, steppe.methods.safe(sparsity=0.5), Setting(**ADAM, checkpointing=True))
    assert less["activations"] < safe["activations"]
    split = needed(source, steppe.methods.safe(sparsity=0.5), Setting(**ADAM, processes=2))
    assert split["weights"] == 4 * (n // 2)
    assert "the teacher" in needed(
        source, steppe.methods.gmp(sparsity=0.5), Setting(**ADAM, teacher=True)
    )
    assert len(lines(plain, 2**30)) == 1 + len(plain)


def test_what_does_not_fit_is_one_line_whose_way_out_fits():
    setting = Setting(**ADAM)
    parts = {"weights": 100, "activations": 800, "logits": 800}
    check(parts, 1700, setting, 1)
    with pytest.raises(SteppeError, match=r"must fit in memory.*--batch-size 2 --accumulate 4"):
        check(parts, 600, setting, 1)
    assert 100 + (800 + 800) * 2 // 8 <= 600
    with pytest.raises(SteppeError, match="--shard") as refused:
        check(parts, 50, setting, 1)
    assert "\n" not in str(refused.value)
