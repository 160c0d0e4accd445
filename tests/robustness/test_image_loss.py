"""What networks give, as scores per class; gradients that cannot be used are told."""

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.robustness.image_loss import ImageLoss, are_probabilities, class_scores, usable


def loss_of(forward, labels=(0, 1)):
    return ImageLoss(nn.Identity(), torch.tensor(labels), lambda model, x: forward(x))


def test_a_single_score_is_that_of_class_1_against_class_0():
    z = torch.tensor([[2.0], [-3.0]])
    for output in (z, z[:, 0], z[:, :, None, None], z.double()):
        assert torch.equal(class_scores(output), torch.tensor([[0.0, 2.0], [0.0, -3.0]]))
    for shape in ((2, 1), (2,), (2, 1, 1, 1)):
        scores = loss_of(lambda x, shape=shape: torch.sigmoid(x.flatten(1)).view(shape)).scores(
            z.view(2, 1, 1, 1)
        )
        assert torch.equal(scores, class_scores(z))
    loss, right = loss_of(lambda x: z, (1, 0))(torch.zeros(2, 1, 1, 1))
    torch.testing.assert_close(loss, nn.functional.softplus(torch.tensor([-2.0, -3.0])))
    assert right.tolist() == [True, True]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ((torch.zeros(2, 3), None), "got a tuple"),
        (torch.tensor([0, 1]), "before the argmax"),
        (torch.tensor(0.5), "before the argmax"),
        (torch.zeros(2, 3, 4, 4), r"shape \[2, 3, 4, 4\]"),
    ],
)
def test_what_is_no_score(output, text):
    with pytest.raises(SteppeError, match=text):
        class_scores(output)


@pytest.mark.parametrize("labels", [(0, 3), (-1, 0)])
def test_labels_are_classes(labels):
    with pytest.raises(SteppeError, match="labels from 0 to classes - 1"):
        loss_of(lambda x: torch.zeros(2, 3), labels)(torch.zeros(2, 1, 1, 1))
    with pytest.raises(SteppeError, match="whole numbers"):
        loss_of(lambda x: x, (0.5, 1.0))


def test_labels_of_any_type_and_shape():
    for labels in (torch.tensor([[0.0], [1.0]]), torch.tensor([False, True]), torch.tensor([0, 1])):
        assert ImageLoss(nn.Identity(), labels, lambda m, x: x).labels.tolist() == [0, 1]


def test_nan_is_no_right_answer():
    scores = torch.tensor([[torch.nan, 0.0], [0.0, torch.nan]])
    _, right = loss_of(lambda x: scores)(torch.zeros(2, 1, 1, 1))
    assert right.tolist() == [False, False]


def test_probabilities_are_told_from_scores():
    assert are_probabilities(torch.randn(4, 5).softmax(1))
    assert not are_probabilities(torch.randn(4, 5).log_softmax(1))


def test_gradients_that_vanish_overflow_or_are_no_numbers():
    gradient = torch.zeros(6, 1, 1, 2)
    gradient[:, 0, 0, 0] = torch.tensor([0.0, 1e-40, 1e-30, 2.0, torch.inf, torch.nan])
    clean, vanishes = usable(gradient)
    assert vanishes.tolist() == [True, True, False, False, False, True]
    assert clean.isfinite().all()
    assert clean[2:5].flatten().tolist() == [1.0, 0.0, 2.0, 0.0, 1.0, 0.0]
    usual = torch.randn(3, 2, 2, 2)
    assert torch.equal(usable(usual)[0], usual)


def test_the_margins_gradient_does_not_depend_on_the_scores_size():
    torch.manual_seed(0)
    head, x = nn.Linear(4, 3), torch.rand(2, 4, 1, 1)
    directions = []
    for size in (1e-20, 1.0, 1e5, 1e30):
        _, _, gradient, vanishes, _ = loss_of(
            lambda x, size=size: (head(x.flatten(1)) * size).softmax(1)
        ).margin_gradient(x)
        assert not vanishes.any()
        directions.append(nn.functional.normalize(gradient.flatten(1)))
    for other in directions[1:]:
        torch.testing.assert_close(other, directions[0])


def test_no_gradient_at_all_is_zero_and_no_error():
    def numpy(x):
        return torch.from_numpy(x.numpy()).flatten(1)

    x = torch.rand(2, 3, 1, 1)
    for forward in (numpy, lambda x: x.detach().flatten(1)):
        loss, right, gradient, _, lost = loss_of(forward).with_gradient(x)
        assert not gradient.any()
        assert lost.all()
        torch.testing.assert_close(loss, loss_of(forward)(x)[0])
        assert torch.equal(right, loss_of(forward)(x)[1])
