"""Models without a block, tried out: each loss is that of a model that was built without it."""

import pytest
import torch

from steppe.llm.model import StreamedModel
from steppe.llm.perplexity import token_loss
from steppe.llm.structured.block_trials import STATES, StreamedTrials


@pytest.fixture
def folder(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=30,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=6,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("gone", [[], [3], [1, 4]])
def test_losses_of_models_without_a_block(folder, tmp_path, batch, gone):
    tokens = torch.randint(30, (7, 10))
    from transformers import LlamaForCausalLM

    streamed, whole = StreamedModel(str(folder)), LlamaForCausalLM.from_pretrained(folder)
    may_go = [f"model.layers.{i}" for i in (1, 2, 3, 4)]  # not the ends
    watched = []
    trials = StreamedTrials(
        streamed, tokens, tmp_path, batch, may_go, lambda *said: watched.append(said)
    )
    for i in gone:
        trials.remove(f"model.layers.{i}")
    losses = trials.losses()
    every = list(whole.model.layers)
    for name in trials.may_go:
        out = {int(name.rpartition(".")[2]), *gone}
        whole.model.layers = torch.nn.ModuleList(b for i, b in enumerate(every) if i not in out)
        with torch.no_grad():
            logits = whole(tokens, use_cache=False).logits
        loss, count = token_loss(logits, lambda z: z, tokens)
        assert losses[name] == pytest.approx(loss / count, rel=1e-5)
    assert losses.keys() == set(trials.may_go)
    done, of = zip(*watched, strict=True)
    assert len(set(of)) == 1
    assert list(done) == sorted(done)
    assert done[-1] < of[0]
    assert not (tmp_path / STATES).exists()
    assert all(p.is_meta for block in streamed.blocks for p in block.parameters())


def test_inputs_are_those_before_the_block_even_where_states_are_written_in_place(folder, tmp_path):
    tokens = torch.randint(30, (4, 10))
    trials = StreamedTrials(
        StreamedModel(str(folder)), tokens, tmp_path, 2, [f"model.layers.{i}" for i in range(6)]
    )
    changes = trials.changes(lambda x, y: (y - x).abs().sum(-1))
    assert min(changes.values()) > 0
