"""Where a run is rewound, learning rate and data begin anew, also after a kill."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import steppe
from steppe import SteppeError
from steppe.core.errors import Diverged
from steppe.core.serialization import PARTIAL
from steppe.engine.run_folder import RunFolder, alone_in
from steppe.engine.step.parameter_groups import ParameterGroup
from steppe.engine.trainer import TrainConfig, Trainer, make_accelerator

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


class Stop(Exception):
    pass


class Batches:
    """Four batches an epoch, in an order of its own each time; remembers what it gave."""

    def __init__(self, stop_at=None):
        self.given, self.stop_at = [], stop_at

    def __len__(self):
        return 4

    def epoch(self, number, start=0):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(number))
        for position in range(start, 4):
            if len(self.given) == self.stop_at:
                raise Stop
            self.given.append((number, position))
            rows = order[6 * position : 6 * position + 6]
            yield X[rows], Y[rows]


def trainer(method, epochs, batches, run=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    config = TrainConfig(
        epochs=epochs, lr=0.1, bn_batches=0, checkpoint_steps=2, eval_every=0, **options
    )
    accelerator = make_accelerator(config, "cpu", ".")
    evaluate = lambda m: {"accuracy": float((m(X).argmax(-1) == Y).float().mean())}  # noqa: E731
    return Trainer(model, batches, evaluate, method, config, accelerator, run=run, quiet=True)


def rates(made):
    found = []
    step = made.sparsifier.step

    def watched(*closures):
        found.append(made.optimizer.param_groups[0]["lr"])
        return step(*closures)

    made.sparsifier.step = watched
    made.fit()
    return found


def test_a_loss_that_is_no_number_is_told_apart_from_a_users_mistake():
    made = trainer(steppe.methods.make("dense"), 3, Batches())
    made.loss = lambda out, y: out.sum() * float("nan")
    with pytest.raises(Diverged, match="the loss must stay finite"):
        made.fit()


def test_scores_of_a_training_that_diverged_are_told_as_that():
    """The cut comes in the step whose loss is NaN: its scores are no mistake of their own."""
    made = trainer(steppe.methods.make("gmp", sparsity=0.5, every=1), 3, Batches())
    made.loss = lambda out, y: out.sum() * float("nan")
    with pytest.raises(Diverged, match=r"the loss must stay finite.*a smaller learning rate; in"):
        made.fit()


@pytest.mark.parametrize("name", ["lth", "lrr"])
def test_learning_rate_and_data_begin_anew(name):
    batches = Batches()
    found = rates(trainer(steppe.methods.make(name, sparsity=0.8, cycles=3), 6, batches))
    one = [(epoch, position) for epoch in range(2) for position in range(4)]
    assert batches.given == 3 * one
    assert found == 3 * found[:8]
    assert found[0] == 0.1
    assert found[7] < 0.01


def test_rewound_to_an_early_step_they_begin_there():
    batches = Batches()
    method = steppe.methods.lth(sparsity=0.8, cycles=3, to=0.25)
    found = rates(trainer(method, 5, batches))
    one = [(epoch, position) for epoch in range(2) for position in range(4)]
    assert batches.given == one + 2 * one[2:]
    assert found == found[:8] + 2 * found[2:8]


def test_without_rewinding_the_run_goes_on():
    batches = Batches()
    found = rates(trainer(steppe.methods.pbw(sparsity=0.8, cycles=3), 6, batches))
    assert [epoch for epoch, _ in batches.given] == [e for e in range(6) for _ in range(4)]
    assert found == sorted(found, reverse=True)


METHODS = {
    "lth": lambda: steppe.methods.lth(sparsity=0.8, cycles=3),
    "pilot": lambda: steppe.methods.pilot(sparsity=0.8, l1_threshold=1.0, cycles=3),
    "soft_threshold": lambda: steppe.methods.soft_threshold(sparsity=0.8),
    "lasso": lambda: steppe.methods.lasso(sparsity=0.8),
    "distillation": lambda: steppe.methods.safe(sparsity=0.8).replace(objective="distillation"),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stop_at", [7, 11, 13])
def test_killed_and_resumed_it_ends_the_same(name, stop_at, tmp_path):
    whole = trainer(METHODS[name](), 6, Batches())
    expected = whole.fit()
    recipe = {"name": name}
    folder = RunFolder(tmp_path, recipe)
    folder.claim()
    killed = trainer(METHODS[name](), 6, Batches(stop_at), folder)
    with pytest.raises(Stop):
        killed.fit()
    resumed = trainer(METHODS[name](), 6, Batches(), RunFolder(tmp_path, recipe))
    found = resumed.fit()
    for key, tensor in resumed.plain.state_dict().items():
        assert torch.equal(tensor, whole.plain.state_dict()[key]), key
    assert found.metrics == expected.metrics
    assert found.finished.zeros == expected.finished.zeros


GROUPS = (
    ParameterGroup.make({"kind": "norm", "weight_decay": 0, "lr": 0.02}),
    ParameterGroup.make({"params": "3", "weight_decay": 0.5}),
)


def test_the_schedule_stretches_over_the_rate_of_each_group():
    made = trainer(steppe.methods.gmp(sparsity=0.5), 3, Batches(), optimizer_groups=GROUPS)
    seen, step = [], made.sparsifier.step

    def watched(*closures):
        seen.append([g["lr"] for g in made.optimizer.param_groups])
        return step(*closures)

    made.sparsifier.step = watched
    rows = made.fit().metrics
    assert [g["weight_decay"] for g in made.optimizer.param_groups] == [0, 0, 0.5]
    assert seen[0] == [0.1, 0.02, 0.1]
    for usual, norm, last in seen:
        assert (norm, last) == (pytest.approx(0.2 * usual), usual)
    assert rows[-1]["lr"] == seen[-1][0] < 0.01


@pytest.mark.parametrize("name", ["lth", "pilot", "soft_threshold"])
def test_killed_and_resumed_with_groups_it_ends_the_same(name, tmp_path):
    whole = trainer(METHODS[name](), 6, Batches(), optimizer_groups=GROUPS)
    whole.fit()
    folder = RunFolder(tmp_path, {})
    folder.claim()
    with pytest.raises(Stop):
        trainer(METHODS[name](), 6, Batches(11), folder, optimizer_groups=GROUPS).fit()
    resumed = trainer(
        METHODS[name](), 6, Batches(), RunFolder(tmp_path, {}), optimizer_groups=GROUPS
    )
    resumed.fit()
    for key, tensor in resumed.plain.state_dict().items():
        assert torch.equal(tensor, whole.plain.state_dict()[key]), key


def test_the_controller_can_be_followed():
    method = steppe.methods.pilot(sparsity=0.5, alpha=1e-3, delta=2.0, l1_threshold=0.0)
    made = trainer(method, 4, Batches())
    rows = made.fit().metrics
    assert [row["alpha"] for row in rows][2:] == pytest.approx(
        [rows[1]["alpha"] / 2, rows[1]["alpha"] / 4]
    )
    assert all(0.0 <= row["train_accuracy"] <= 1.0 for row in rows)
    plain = trainer(steppe.methods.gmp(sparsity=0.5), 2, Batches())
    assert "alpha" not in plain.fit().metrics[0]


def test_from_the_checkpoint_before_a_damaged_one_it_ends_the_same(tmp_path, capsys):
    method = METHODS["distillation"]
    whole = trainer(method(), 6, Batches())
    whole.fit()
    folder = RunFolder(tmp_path, {})
    folder.claim()
    with pytest.raises(Stop):
        trainer(method(), 6, Batches(11), folder).fit()
    (tmp_path / "checkpoints" / "last.safetensors").write_bytes(b"\0" * 100)
    resumed = trainer(method(), 6, Batches(), RunFolder(tmp_path, {}))
    resumed.fit()
    said = (
        "checkpoint last.safetensors is damaged; the one before it, previous.safetensors, is used"
    )
    assert capsys.readouterr().err == f"steppe: {said}\n"
    assert {said, "resumed after step 8 of 24"} <= set(resumed.sparsifier.notes)
    for key, tensor in resumed.plain.state_dict().items():
        assert torch.equal(tensor, whole.plain.state_dict()[key]), key


def test_one_training_at_a_time_works_in_a_folder(tmp_path):
    """Two would take turns in writing the checkpoints."""
    made = trainer(METHODS["lth"](), 3, Batches(), RunFolder(tmp_path, {}))
    half = tmp_path / "checkpoints" / f".last.x{PARTIAL}"
    half.parent.mkdir()
    half.write_text("of a run that was killed")
    with ThreadPoolExecutor(1) as another, alone_in(tmp_path):
        with pytest.raises(SteppeError, match="where another one is at work"):
            another.submit(made.fit).result()
        assert half.exists(), "that of who works there"
    made.fit()
    assert not half.exists()


def test_a_checkpoint_of_another_network_is_one_line(tmp_path):
    folder = RunFolder(tmp_path, {})
    folder.claim()
    trainer(METHODS["lth"](), 3, Batches(), folder).fit()
    folder.save_checkpoint(folder.load_checkpoint() | {"model": {"other": torch.ones(1)}})
    with pytest.raises(SteppeError, match="of the model that goes on"):
        trainer(METHODS["lth"](), 3, Batches(), RunFolder(tmp_path, {})).fit()
