"""Dimensions of the residual stream removed: what is left computes as if they had never been."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import mixture_models
from language_models import VOCABULARY, on_disk, random_model, reload, same_on_disk, windows
from steppe import SteppeError, methods
from steppe.llm.model import StreamedModel
from steppe.llm.prune import prune
from steppe.llm.structured import dimension_ranking
from steppe.llm.structured.choice import DONE
from steppe.llm.structured.choices.units import MASKED
from steppe.llm.structured.norm_outputs import Moments

WIDTH, WIDE, BLOCKS = 16, 32, 2  # mixtures are wide: theirs stays one of 8
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = SIZES | {"intermediate_size": 24, "num_key_value_heads": 2}
WIDE_HEADS = GATED | {"num_attention_heads": 4, "head_dim": 8}
ALTERNATING = WIDE_HEADS | {
    "num_attention_heads": 2,  # which the width must be a multiple of
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": BLOCKS,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GATED),
    "llama-tied": ("Llama", GATED | {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", GATED | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", GATED | {"sliding_window": 8}),
    "qwen2": ("Qwen2", GATED | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", WIDE_HEADS),
    "gemma": ("Gemma", WIDE_HEADS),
    "gemma2": ("Gemma2", ALTERNATING | {"query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3Text", ALTERNATING),
    "phi": ("Phi", GATED | {"partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", GATED),
}
MIXTURES = ["mixtral", "qwen3-moe", "qwen2-moe", "deepseek-v3", "gpt-oss"]
EVERY = [*FAMILIES, *MIXTURES]
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "opt": ("OPT", SIZES | {"ffn_dim": 24, "word_embed_proj_dim": WIDTH}, "head_dim would be"),
    "gpt2": ("GPT2", GPT2, "head_dim would be"),
    "gpt-neox": ("GPTNeoX", SIZES | {"intermediate_size": 24}, "head_size would be"),
    "olmoe": ("Olmoe", GATED | {"num_experts": 4, "num_experts_per_tok": 2}, "head_dim would be"),
}
PLAIN = {"scale": False, "fit": False}

Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The folder of a family's model, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            torch.manual_seed(0)
            path = made[name] = tmp_path_factory.mktemp(name)
            known = name in FAMILIES
            model = (
                random_model(*FAMILIES[name])
                if known
                else mixture_models.build(name, hidden_size=WIDE)
            )
            model.save_pretrained(path)
            (path / "chat_template.jinja").write_text("{{ messages }}")
        return made[name]

    return folder


def norms_of(model: Any) -> dict[str, Any]:
    """Those of the residual stream: none is of heads, or of low ranks."""
    modules = {n: m for n, m in model.named_modules() if "Norm" in type(m).__name__}
    return {n: m for n, m in modules.items() if "attn." not in n and "attention." not in n}


def by_hand(norm: Any, x: Tensor, places: Tensor) -> Tensor:
    """A norm over some dimensions, from its formula; the others are zero."""
    some, weight = x[..., places].double(), norm.weight[places].double()
    if isinstance(norm, nn.LayerNorm):
        centred = some - some.mean(-1, keepdim=True)
        over = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        given = centred / over * weight + norm.bias[places].double()
    else:
        eps = getattr(norm, "variance_epsilon", None) or norm.eps
        over = (some.square().mean(-1, keepdim=True) + eps).sqrt()
        given = some / over * (1 + weight if "Gemma" in type(norm).__name__ else weight)
    made = torch.zeros_like(x)
    made[..., places] = given.to(x.dtype)
    return made


@contextlib.contextmanager
def without(model: Any, kept: list[int]) -> Iterator[None]:
    """A dense model of whose residual stream some dimensions are read by nobody."""
    places = torch.tensor(kept)
    handles = [
        norm.register_forward_hook(lambda m, args, given: by_hand(m, args[0], places))
        for norm in norms_of(model).values()
    ]
    yield
    for handle in handles:
        handle.remove()


def written(folder: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return held


def worst(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("share", [0.125, 0.375])
@pytest.mark.parametrize("name", EVERY)
def test_removed_is_as_if_it_had_never_been(
    name: str, share: float, saved: Saved, tmp_path: Path
) -> None:
    folder, out, tokens = saved(name), tmp_path / "out", windows()
    width = WIDTH if name in FAMILIES else WIDE
    share = share if name in FAMILIES else 2 * share
    stay = round(width * (1 - share))
    method = methods.make("hidden", sparsity=share, **PLAIN)
    record = prune(folder, method, tokens, out)
    dense, slim, kept = reload(folder), reload(out), record["hidden"]["kept"]
    assert len(kept) == stay
    assert record["removed"]["hidden"] == [stay, width]
    with torch.no_grad(), without(dense, kept):
        expected = dense(tokens, use_cache=False).logits
        found = slim(tokens, use_cache=False).logits
    assert worst(found, expected) < 1e-5

    # with and without a cache the next tokens are the same
    start = windows(2, 12)
    made = slim.generate(start, max_new_tokens=4, do_sample=False, pad_token_id=0)
    for length in range(12, made.shape[1]):
        ended = (made[:, 12:length] == 2).any(1)
        with torch.no_grad(), without(dense, kept):
            best = dense(made[:, :length], use_cache=False).logits[:, -1].argmax(-1)
        assert torch.equal(best[~ended], made[~ended, length])

    before, now = written(folder), written(out)
    assert now["hidden_size"] == stay
    other = {k for k in before.keys() | now.keys() if before.get(k) != now.get(k)}
    assert other - {"head_dim", "dtype", "transformers_version"} == {"hidden_size"}
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert slim.num_parameters() == record["sparse"]["parameters"]
    gone = 1 - slim.num_parameters() / dense.num_parameters()
    assert record["sparsity_of_all"] == pytest.approx(gone)
    assert not list((out / "checkpoints").glob("*.bin"))
    assert not (out / MASKED).exists()


@pytest.mark.parametrize("name", EVERY)
def test_repaired_it_is_as_the_masked_model_and_loads(
    name: str, saved: Saved, tmp_path: Path
) -> None:
    tokens = windows(10)
    record = prune(saved(name), methods.make("hidden", sparsity=0.25), tokens, tmp_path / "out")
    assert record["removed"]["agreement"] < 1e-5
    slim = reload(tmp_path / "out")
    assert slim.num_parameters() == record["sparse"]["parameters"]
    cached = slim.generate(windows(2, 8), max_new_tokens=4, do_sample=False, pad_token_id=0)
    again = slim.generate(
        windows(2, 8), max_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=False
    )
    assert torch.equal(cached, again)
    factors = {n: f for row in record["blocks"] for n, f in row["norms"].items()}
    inside = [n for n in norms_of(reload(saved(name))) if ".layers." in n]
    assert sorted(factors) == sorted(inside)


@pytest.mark.parametrize("name", ["llama", "phi", "gemma2"])
def test_the_mean_output_of_all_norms_decides(name: str, saved: Saved, tmp_path: Path) -> None:
    tokens = windows(5)
    method = methods.make("hidden", sparsity=0.375, **PLAIN)
    record = prune(saved(name), method, tokens, tmp_path / "out")
    model, sums = reload(saved(name)), list[Tensor]()
    for norm in norms_of(model).values():
        norm.register_forward_hook(lambda m, args, given: sums.append(given.abs().mean((0, 1))))
    with torch.no_grad():
        model(tokens, use_cache=False)
    expected = torch.stack(sums).mean(0)
    assert record["hidden"]["scores"] == pytest.approx(expected.tolist(), rel=1e-4)
    largest = sorted(expected.topk(10).indices.tolist())
    assert record["hidden"]["kept"] == largest


def seen(model: Any, name: str, tokens: Tensor) -> Tensor:
    """What a module gives, ``[tokens, dimensions]``."""
    given: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda m, args, made: given.append(made.flatten(0, 1))
    )
    with torch.no_grad():
        model(tokens, use_cache=False)
    handle.remove()
    return given[0].double()


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(
    ("name", "norm", "reader"),
    [
        ("llama", "model.layers.0.input_layernorm", "model.layers.0.self_attn.k_proj"),
        ("phi", "model.layers.1.input_layernorm", "model.layers.1.mlp.fc1"),
        ("mixtral", "model.layers.0.post_attention_layernorm", "model.layers.0.mlp.gate"),
        ("llama", "model.norm", "lm_head"),
    ],
)
def test_the_fit_is_the_least_squares_from_what_is_left_to_what_was(
    name: str, norm: str, reader: str, scale: bool, saved: Saved, tmp_path: Path
) -> None:
    tokens, out, damping = windows(10), tmp_path / "out", 0.03
    method = methods.make("hidden", sparsity=0.25, damping=damping, scale=scale)
    record = prune(saved(name), method, tokens, out)
    dense, slim = reload(saved(name)), reload(out)
    places = torch.tensor(record["hidden"]["kept"])
    before, now = seen(dense, norm, tokens), seen(slim, norm, tokens)
    shift = getattr(dense.get_submodule(norm), "bias", None)
    shift = 0.0 if shift is None else shift[places].double()
    own = now - shift
    factor = float(((before[:, places] - shift).square().sum() / own.square().sum()).sqrt())
    factor = factor if scale else 1.0
    gram, cross = now.t() @ now, before.t() @ now
    size = damping * gram.diagonal().mean()
    cross[places, torch.arange(len(places))] += size * factor
    matrix = torch.linalg.solve(gram + size * torch.eye(len(gram)), cross.t()).t()
    expected = dense.get_submodule(reader).weight.double() @ matrix
    found = slim.get_submodule(reader).weight.double()
    assert worst(found, expected) < 1e-3
    plain = dense.get_submodule(reader).weight.double()[:, places]

    def error(weight: Tensor) -> float:
        aimed = before @ dense.get_submodule(reader).weight.double().t()
        return float((now @ weight.t() - aimed).square().sum())

    assert error(found) < error(plain)


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "phi"])
def test_norms_are_scaled_to_the_size_that_they_had(
    name: str, saved: Saved, tmp_path: Path
) -> None:
    tokens, out = windows(10), tmp_path / "out"
    record = prune(saved(name), methods.make("hidden", sparsity=0.25, fit=False), tokens, out)
    dense, slim = reload(saved(name)), reload(out)
    places = torch.tensor(record["hidden"]["kept"])
    for norm in norms_of(slim):
        if norm == next(reversed(norms_of(slim))) and "gemma" in name:
            continue  # it makes up for the embedding's factor besides
        before, now = seen(dense, norm, tokens)[:, places], seen(slim, norm, tokens)
        shift = getattr(slim.get_submodule(norm), "bias", None)
        shift = 0.0 if shift is None else shift.double()
        own = now - shift
        sizes = (before - shift).square().sum(), own.square().sum()
        assert float(sizes[0] / sizes[1]) == pytest.approx(1, 1e-3)


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi"])
def test_the_fit_comes_closer_to_the_dense_model(name: str, saved: Saved, tmp_path: Path) -> None:
    tokens = windows(24)
    dense = reload(saved(name))
    errors = []
    for number, options in enumerate((PLAIN, {})):
        out = tmp_path / str(number)
        prune(saved(name), methods.make("hidden", sparsity=0.25, **options), tokens, out)
        with torch.no_grad():
            change = reload(out)(tokens).logits - dense(tokens).logits
        errors.append(float(change.square().mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["gemma", "llama-tied"])
def test_rounded_weights_are_those_that_are_checked(name: str, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    random_model(*FAMILIES[name]).to(getattr(torch, dtype)).save_pretrained(tmp_path / "model")
    method = methods.make("hidden", sparsity=0.125)
    record = prune(tmp_path / "model", method, windows(), tmp_path / "out")
    assert record["removed"]["agreement"] < 1e-5
    assert {str(t.dtype) for t in on_disk(tmp_path / "out").values()} == {f"torch.{dtype}"}


def killed_at(owner: Any, name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is interrupted when it is called so many times."""
    plain, calls = getattr(owner, name), list[None]()

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (dimension_ranking, "sizes", 2),
        (Moments, "finish", 1),
        (Moments, "finish", 3),
        (StreamedModel, "write_rest", 1),
        (StreamedModel, "write_rest", 2),
        ("steppe.llm.structured.slim", "compared", 1),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    owner: Any,
    name: str,
    number: int,
    saved: Saved,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib

    owner = importlib.import_module(owner) if isinstance(owner, str) else owner
    method, tokens = methods.make("hidden", sparsity=0.25), windows(9)
    whole = prune(saved("llama-tied"), method, tokens, tmp_path / "whole")
    with monkeypatch.context() as patch:
        killed_at(owner, name, number, patch)
        with pytest.raises(KeyboardInterrupt):
            prune(saved("llama-tied"), method, tokens, tmp_path / "out")
    assert not (tmp_path / "out" / "record.json").exists()
    record = prune(saved("llama-tied"), method, tokens, tmp_path / "out")
    assert record["hidden"] == whole["hidden"]
    assert same_on_disk(tmp_path / "whole", tmp_path / "out")
    assert prune(saved("llama-tied"), method, tokens, tmp_path / "out") == record


def refusal(model: Path, tmp_path: Path, given: Mapping[str, Any], **options: Any) -> str:
    asked: dict[str, Any] = {"calibration": windows(), **options}
    with pytest.raises(SteppeError) as refused:
        prune(model, methods.make("hidden", **given), out=tmp_path / "out", **asked)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    return str(refused.value)


@pytest.mark.parametrize("name", REFUSED)
def test_families_whose_heads_follow_the_width_are_refused(name: str, tmp_path: Path) -> None:
    kind, options, reason = REFUSED[name]
    random_model(kind, options).save_pretrained(tmp_path / "model")
    said = refusal(tmp_path / "model", tmp_path, {"sparsity": 0.5})
    assert reason in said
    assert "Way out: --structure neurons" in said


def test_llama_says_which_widths_it_takes_and_mistral_takes_any(
    saved: Saved, tmp_path: Path
) -> None:
    method = {"sparsity": 0.1875}
    said = refusal(saved("llama"), tmp_path, method)
    assert "hidden size of 13" in said
    assert "Way out: --family mistral, or --sparsity 0.25" in said
    out = tmp_path / "out"
    record = prune(
        saved("llama"), methods.make("hidden", **method), windows(), out, family="mistral"
    )
    config = written(out)
    assert (config["model_type"], config["hidden_size"], config["head_dim"]) == ("mistral", 13, 8)
    assert record["removed"]["agreement"] < 1e-5
    reload(out)


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ({"sparsity": 0.01}, {}, "one dimension of the residual stream at least"),
        ({"sparsity": 0.25}, {"calibration": None}, "calibration text"),
        ({"sparsity": 0.25}, {"recover": True}, "--recover"),
        ({"sparsity": 0.25}, {"exclude": ("*.down_proj.weight",)}, "down_proj"),
        ({"sparsity": 0.25}, {"streamed": "never"}, "only hidden states"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    given: dict[str, Any], options: dict[str, Any], said: str, saved: Saved, tmp_path: Path
) -> None:
    assert said in refusal(saved("llama"), tmp_path, given, **options)


def test_what_lies_beside_the_model_is_refused(saved: Saved, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved("qwen3"), folder)
    weights = on_disk(folder) | {"model.layers.2.eh_proj.weight": torch.ones(WIDTH, WIDTH)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "model.layers.2 in the checkpoint" in refusal(folder, tmp_path, {"sparsity": 0.25})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(methods.make, "wanda", structure="hidden"), "method hidden"),
        (partial(methods.make, "slim", structure="hidden"), "method hidden"),
        (partial(methods.make, "hidden", structure="neurons"), "structure hidden"),
        (partial(methods.make, "hidden", score="wanda"), "method hidden"),
        (partial(methods.make, "hidden", budget="pooled"), "budget uniform"),
        (partial(methods.make, "hidden", damping=0.0), "damping above 0"),
        (
            partial(methods.make, "hidden", structure={"name": "hidden", "round_to": 0}),
            "round_to",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(make: Callable[..., Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said):
        make(sparsity=0.25).for_language()


def test_widths_are_rounded(saved: Saved, tmp_path: Path) -> None:
    method = methods.make(
        "hidden", sparsity=0.2, structure={"name": "hidden", "round_to": 4}, **PLAIN
    )
    prune(saved("mistral"), method, windows(), tmp_path / "out")
    assert written(tmp_path / "out")["hidden_size"] == 12


def test_dimensions_and_then_neurons_and_heads_go(saved: Saved, tmp_path: Path) -> None:
    tokens = windows()
    prune(saved("mistral"), methods.make("hidden", sparsity=0.25), tokens, tmp_path / "first")
    record = prune(
        tmp_path / "first", methods.make("slim", sparsity=0.5), tokens, tmp_path / "second"
    )
    assert record["removed"]["agreement"] < 1e-5
    again = prune(
        tmp_path / "second", methods.make("hidden", sparsity=0.25), tokens, tmp_path / "third"
    )
    assert again["removed"]["agreement"] < 1e-5
    config = written(tmp_path / "third")
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "head_dim")
    assert [config[n] for n in sizes] == [9, 12, 1, 8]
    assert reload(tmp_path / "third").num_parameters() == again["sparse"]["parameters"]


def test_without_text_dimensions_go_at_random(saved: Saved, tmp_path: Path) -> None:
    method = methods.make("hidden", sparsity=0.25, score="random", **PLAIN)
    record = prune(saved("qwen3"), method, None, tmp_path / "out")
    assert len(record["hidden"]["kept"]) == 12
    assert record["removed"]["agreement"] < 1e-5


def test_dimensions_at_random_are_made_up_for_where_there_is_text(
    saved: Saved, tmp_path: Path
) -> None:
    """What is fitted needs text, though the score looks at none."""
    method = methods.make("hidden", sparsity=0.25, score="random")
    with pytest.raises(SteppeError, match="needs calibration text"):
        prune(saved("mistral"), method, None, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    record = prune(saved("mistral"), method, windows(), tmp_path / "out")
    assert record["removed"]["hidden"][0] < record["removed"]["hidden"][1]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({}, ""),
        ({"ranked": 1}, "what 1 blocks give was ranked before"),
        ({"ranked": 2, "kept": [0]}, "the dimensions were ranked before"),
        ({"ranked": 2, "kept": [0], "blocks": [{}]}, "done before: 1 block"),
    ],
)
def test_what_was_done_before(held: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "hidden.json").write_text(json.dumps(held))
    assert DONE["hidden"](tmp_path) == said
