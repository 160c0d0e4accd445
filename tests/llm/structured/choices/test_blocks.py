"""Decoder blocks removed: what is left computes as the dense model in which they do nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from language_models import GATED, GPT2, Saved, build, random_model, reload, same_on_disk, windows
from steppe import SteppeError, methods
from steppe.llm.prune import prune
from steppe.llm.structured.block_trials import StreamedTrials

BLOCKS = 4
NAMES = [
    "llama-grouped",
    "mistral",
    "qwen2-sliding",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi",
    "opt",
    "gpt2",
    "gpt-neo",
    "gpt-neox",
    "mixtral",
    "qwen3-moe",
    "qwen3-moe-every-second",
    "deepseek-v3",
    "smollm3",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory, of_blocks)


def of_blocks(name: str) -> Any:
    """A model of a family, of four blocks."""
    return build(name, num_hidden_layers=BLOCKS)


def list_of(model: Any) -> nn.ModuleList:
    """The decoder blocks, as plain transformers has them."""
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == BLOCKS]
    return max(found, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


@contextlib.contextmanager
def without(model: Any, gone: Sequence[int]) -> Iterator[None]:
    """A dense model in which some blocks give what they get."""
    blocks = list_of(model)

    def given(module: nn.Module, args: Any, kwargs: Any, returned: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if isinstance(returned, Tensor) else (hidden, *returned[1:])

    handles = [blocks[i].register_forward_hook(given, with_kwargs=True) for i in gone]
    yield
    for handle in handles:
        handle.remove()


@torch.no_grad()
def loss_without(model: Any, gone: Sequence[int], tokens: Tensor) -> float:
    with without(model, gone):
        logits = model(tokens, use_cache=False).logits[:, :-1]
    flat = logits.double().flatten(0, 1)
    return float(nn.functional.cross_entropy(flat, tokens[:, 1:].flatten()))


def gone_of(record: dict[str, Any]) -> list[int]:
    return sorted(int(name.rpartition(".")[2]) for name in record["removed"]["blocks"])


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_removed_is_as_passed_by(name: str, lost: int, saved: Saved, tmp_path: Path) -> None:
    folder, out, tokens = saved(name), tmp_path / "out", windows(4)
    record = prune(folder, methods.depth(sparsity=lost / BLOCKS), tokens, out)
    dense, slim, gone = reload(folder), reload(out), gone_of(record)
    assert len(gone) == lost
    with torch.no_grad(), without(dense, gone):
        expected = dense(tokens, use_cache=False).logits
        found = slim(tokens, use_cache=False).logits
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5

    # with and without a cache the next tokens are the same: no block mistakes its place
    start = windows(2, 12)
    made = slim.generate(start, max_new_tokens=6, do_sample=False, pad_token_id=0)
    for length in range(12, made.shape[1]):
        ended = (made[:, 12:length] == 2).any(1)
        with torch.no_grad(), without(dense, gone):
            best = dense(made[:, :length], use_cache=False).logits[:, -1].argmax(-1)
        assert torch.equal(best[~ended], made[~ended, length])

    config = json.loads((out / "config.json").read_text())
    assert BLOCKS - lost in (
        config.get("num_hidden_layers"),
        config.get("n_layer"),
        config.get("num_layers"),
    )
    for key, value in config.items():
        if isinstance(value, list) and "layer" in key and key != "mlp_only_layers":
            assert len(value) == BLOCKS - lost, key
    assert config.get("max_window_layers", 0) <= BLOCKS - lost
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    kept = [list_of(dense)[i] for i in range(BLOCKS) if i not in gone]
    outside = sum(p.numel() for p in dense.parameters()) - sum(
        p.numel() for p in list_of(dense).parameters()
    )
    parameters = outside + sum(p.numel() for block in kept for p in block.parameters())
    assert slim.num_parameters() == parameters == record["sparse"]["parameters"]
    assert record["sparsity_of_all"] == pytest.approx(1 - parameters / dense.num_parameters())
    assert not list((out / "checkpoints").glob("*.bin"))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_greedy_is_brute_force(name: str, saved: Saved, tmp_path: Path) -> None:
    tokens = windows(5)
    record = prune(saved(name), methods.depth(sparsity=0.75), tokens, tmp_path / "out")
    model, gone = reload(saved(name)), list[int]()
    for row in record["rounds"]:
        rated = {int(n.rpartition(".")[2]): loss for n, loss in row["rated"].items()}
        assert sorted(rated) == [i for i in range(BLOCKS) if i not in gone]
        for block, loss in rated.items():
            expected = loss_without(model, [*gone, block], tokens)
            assert loss == pytest.approx(expected, rel=1e-5)
        gone.append(min(rated, key=lambda block: rated[block]))
        assert [int(n.rpartition(".")[2]) for n in row["blocks"]] == gone[-1:]
    assert gone_of(record) == sorted(gone)
    assert record["sparsity_reached"] == 0.75


@pytest.mark.parametrize("greedy", [False, True])
def test_influence_is_one_minus_the_cosine(greedy: bool, saved: Saved, tmp_path: Path) -> None:
    tokens = windows(5)
    budget = {"name": "block_influence", "greedy": greedy}
    method = methods.depth(sparsity=0.5, budget=budget)
    record = prune(saved("llama"), method, tokens, tmp_path / "out")
    model, gone = reload(saved("llama")), list[int]()
    for row in record["rounds"]:
        seen: dict[int, float] = {}

        def see(block: int, module: Any, args: Any, returned: Any, seen: Any = seen) -> None:
            hidden = returned if isinstance(returned, Tensor) else returned[0]
            turned = nn.functional.cosine_similarity(args[0], hidden, dim=-1)
            seen[block] = float(1 - turned.double().mean())

        handles = [
            block.register_forward_hook(lambda *given, i=i: see(i, *given))
            for i, block in enumerate(list_of(model))
            if i not in gone
        ]
        loss_without(model, gone, tokens)
        for handle in handles:
            handle.remove()
        rated = {int(n.rpartition(".")[2]): value for n, value in row["rated"].items()}
        assert rated == pytest.approx(seen, rel=1e-4)
        gone += sorted(seen, key=lambda block: seen[block])[: 1 if greedy else 2]
    assert len(record["rounds"]) == (2 if greedy else 1)
    assert gone_of(record) == sorted(gone)


def test_only_so_many_windows_are_looked_at(saved: Saved, tmp_path: Path) -> None:
    tokens = windows(6)
    budget = {"name": "block_loss", "tokens": 21}
    method = methods.depth(sparsity=0.25, budget=budget)
    record = prune(saved("llama"), method, tokens, tmp_path / "out")
    loss = record["rounds"][0]["rated"]["model.layers.1"]
    model = reload(saved("llama"))
    assert loss == pytest.approx(loss_without(model, [1], tokens[:2]), rel=1e-5)
    assert loss != pytest.approx(loss_without(model, [1], tokens), rel=1e-5)


def test_not_greedy_all_go_by_the_first_round(saved: Saved, tmp_path: Path) -> None:
    budget = {"name": "block_loss", "greedy": False}
    method = methods.depth(sparsity=0.5, budget=budget)
    record = prune(saved("llama"), method, windows(4), tmp_path / "out")
    (row,) = record["rounds"]
    assert row["blocks"] == sorted(row["rated"], key=lambda name: row["rated"][name])[:2]


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_run_goes_on_to_the_same_bits(
    after: int, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, tokens = methods.depth(sparsity=0.75), windows(9)
    whole = prune(saved("llama"), method, tokens, tmp_path / "whole")
    plain, asked = StreamedTrials.losses, list[list[str]]()

    def killed(self: StreamedTrials) -> dict[str, float]:
        asked.append(list(self.left))
        if len(asked) == after + 1:
            raise KeyboardInterrupt
        return plain(self)

    monkeypatch.setattr(StreamedTrials, "losses", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(saved("llama"), method, tokens, tmp_path / "out")
    record = prune(saved("llama"), method, tokens, tmp_path / "out")
    assert [len(left) for left in asked] == [4, 3, 2][: after + 1] + [
        4 - i for i in range(after, 3)
    ]
    assert [r["rated"] for r in record["rounds"]] == [r["rated"] for r in whole["rounds"]]
    assert same_on_disk(tmp_path / "whole", tmp_path / "out")
    assert prune(saved("llama"), method, tokens, tmp_path / "out") == record


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": 0.9}, r"one at least stays; got sparsity 0.9 of 4 blocks.*--sparsity 0.750"),
        ({"sparsity": 0.1}, r"one block at least goes.*--sparsity 0.250 for 1"),
        ({"sparsity": 0.5, "budget": "uniform"}, "block_loss or block_influence"),
        ({"sparsity": 0.5, "structure": "neurons"}, "structure layers"),
        ({"sparsity": 0.5, "structure": "attention"}, "unknown structure"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    options: dict[str, Any], said: str, saved: Saved, tmp_path: Path
) -> None:
    with pytest.raises(SteppeError, match=said) as refused:
        prune(saved("llama"), methods.depth(**options), windows(4), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"calibration": None}, "calibration text"),
        ({"exclude": ["*.down_proj.weight"]}, "no block of 4 that may"),
        ({"streamed": "never"}, "only hidden states"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(
    options: dict[str, Any], said: str, saved: Saved, tmp_path: Path
) -> None:
    given = {"calibration": windows(4), "exclude": [], **options}
    given["exclude"] = tuple(given["exclude"])
    with pytest.raises(SteppeError, match=said) as refused:
        prune(saved("llama"), methods.depth(sparsity=0.5), out=tmp_path / "out", **given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["wanda", "magnitude"])
def test_methods_that_rank_weights_choose_no_blocks(name: str) -> None:
    with pytest.raises(SteppeError, match="method depth"):
        methods.make(name, sparsity=0.5, structure="layers").for_language()


def test_a_pattern_keeps_blocks_and_sparsity_counts_the_others(
    saved: Saved, tmp_path: Path
) -> None:
    exclude = ("model.layers.0.*", "model.layers.3.*")
    method = methods.depth(sparsity=0.5)
    record = prune(saved("llama"), method, windows(4), tmp_path / "out", exclude=exclude)
    (row,) = record["rounds"]
    assert list(row["rated"]) == ["model.layers.1", "model.layers.2"]
    assert gone_of(record)[0] in (1, 2)


def refused(kind: str, options: dict[str, Any], tmp_path: Path) -> str:
    random_model(kind, options).save_pretrained(tmp_path / "model")
    with pytest.raises(SteppeError) as refusal:
        prune(tmp_path / "model", methods.depth(sparsity=0.5), windows(4), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_rule_by_the_place_alone_is_refused(tmp_path: Path) -> None:
    """Jamba's config says of every so many blocks that they are attention, or mixtures."""
    jamba = GATED | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    }
    assert "its config cannot say" in refused("Jamba", jamba, tmp_path)


def test_a_number_that_is_computed_with_is_refused(tmp_path: Path) -> None:
    said = refused("GPT2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}, tmp_path)
    assert "attn.scaling" in said
    assert "--exclude 'transformer.h.0.*'" in said


def test_neurons_and_heads_go_from_what_is_left(saved: Saved, tmp_path: Path) -> None:
    tokens = windows(4)
    prune(saved("llama"), methods.depth(sparsity=0.5), tokens, tmp_path / "first")
    record = prune(
        tmp_path / "first", methods.make("slim", sparsity=0.5), tokens, tmp_path / "second"
    )
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (2, 12)
    assert config["num_attention_heads"] == 2
    assert reload(tmp_path / "second").num_parameters() == record["sparse"]["parameters"]
    assert record["removed"]["agreement"] < 1e-5


def test_the_command_says_what_is_gone_and_gained(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from steppe.cli.main import main

    command = ["prune", str(language_model), "--method", "depth", "--sparsity", "0.5"]
    command += ["--calibration", str(word_text), "--samples", "4", "--window", "12"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--evaluate", str(word_text), "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    said = capsys.readouterr().err
    assert "depth: 50.0000% gone from the decoder blocks" in said
    assert "of the parameters are gone" in said
    assert "no gain" not in said
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["dense"]["perplexity"] != record["sparse"]["perplexity"]
