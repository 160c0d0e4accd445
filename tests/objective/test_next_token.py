"""The loss of the next token, token by token; the same within and without a training task."""

import pytest
import torch
from torch import nn

import steppe
from steppe import SteppeError
from steppe.core import positions
from steppe.core.batch import Batch
from steppe.core.next_token import next_token_loss
from steppe.objective.next_token import NextToken


def by_hand(logits, tokens):
    each = [
        -logits[b, i - 1].double().log_softmax(-1)[tokens[b, i]]
        for b in range(len(tokens))
        for i in range(1, tokens.shape[1])
    ]
    return sum(each) / len(each)


@pytest.mark.parametrize("most", [1 << 22, 11])
def test_token_by_token(most, monkeypatch):
    monkeypatch.setitem(positions.AT_ONCE, "cpu", most)
    logits = torch.randn(3, 4, 5, requires_grad=True)
    tokens = torch.randint(0, 5, (3, 4))
    loss = NextToken().loss(Batch(outputs=logits, targets=tokens))
    torch.testing.assert_close(loss, by_hand(logits, tokens).float())
    loss.backward()
    assert not bool(logits.grad[:, -1].any()), "the last position predicts nothing"
    assert bool(logits.grad[:, :-1].any())


def test_what_is_not_to_be_predicted_is_left_out():
    """As transformers' own loss, whose labels are -100 where a text is padded."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits, tokens = torch.randn(2, 5, 6), torch.randint(0, 6, (2, 5))
    tokens[1, 3:] = -100
    expected = ForCausalLMLoss(logits, tokens, vocab_size=6)
    torch.testing.assert_close(next_token_loss(logits, tokens), expected)


def test_images_are_refused_in_one_line():
    with pytest.raises(SteppeError, match=r"logits \[2, 5\] and targets \[2\].*objective task"):
        NextToken().loss(Batch(outputs=torch.zeros(2, 5), targets=torch.zeros(2).long()))


def test_in_half_precision_it_is_summed_in_float32():
    logits, tokens = torch.randn(2, 9, 6), torch.randint(0, 6, (2, 9))
    low = next_token_loss(logits.bfloat16(), tokens)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, by_hand(logits.bfloat16(), tokens).float())


def test_in_a_loop_of_ones_own():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6))
    method = steppe.methods.gmp(sparsity=0.5).replace(objective="next_token")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    sparsifier = steppe.sparsify(model, optimizer, method, total_steps=40)
    tokens = torch.arange(6).repeat(2, 2)
    losses = [
        float(sparsifier.step(lambda: sparsifier.loss(outputs=model(tokens), targets=tokens)))
        for _ in range(40)
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert sparsifier.finish().sparsity == 0.5
