"""The check of what was cut: it finds whatever is wrong, and takes a tie of a router for none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from language_models import windows
from mixture_models import build
from steppe import methods
from steppe.llm.model import StreamedModel
from steppe.llm.prune import prune
from steppe.llm.structured import slim
from steppe.method import Method
from steppe.removal.mixtures import mixtures_of


def with_routers(name: str, change: Callable[[Tensor], Tensor], folder: Path) -> Path:
    """A mixture's folder, each router's weight changed, its biases zero."""
    model = build(name)
    with torch.no_grad():
        for mixture in mixtures_of(model):
            weight = mixture.tensors[mixture.name]
            weight.copy_(change(weight.clone()))
            for bias in mixture.biases:
                bias.zero_()
    model.save_pretrained(folder)
    return folder


def twice_the_same(weight: Tensor) -> Tensor:
    """Neighbouring experts are equally good, for each token."""
    return weight[: len(weight) // 2].repeat_interleave(2, 0)


TIES: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "twins": twice_the_same,
    "all but rounding": lambda w: twice_the_same(w) * (1 + 1e-7 * torch.randn_like(w)),
}


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "deepseek-v3", "gpt-oss"])
def test_a_tie_of_a_router_is_no_difference(name: str, tie: str, tmp_path: Path) -> None:
    folder = with_routers(name, TIES[tie], tmp_path / "dense")
    record = prune(folder, methods.reap(sparsity=0.25), windows(), tmp_path / "out")
    assert record["removed"]["agreement"] < 1e-5


def test_heads_before_a_router_that_ties(tmp_path: Path) -> None:
    """Sums over fewer heads are rounded in another way, so that other experts are chosen."""
    folder = with_routers("mixtral", TIES["all but rounding"], tmp_path / "dense")
    method = methods.slim(sparsity=0.5, structure="heads")
    record = prune(folder, method, windows(), tmp_path / "out")
    assert record["removed"]["agreement"] < 1e-5


@pytest.mark.parametrize("streamed", ["auto", "never"])
def test_a_choice_that_differs_is_made_again_as_it_was(
    streamed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever torch takes of equals: here the first in one model and the last in the other."""
    folder = with_routers("mixtral", TIES["zeros"], tmp_path / "dense")
    plain, cut_now = torch.topk, slim.cut

    def last(values: Tensor, k: int, dim: int = -1, **more: Any) -> Any:
        found = plain(values.flip(dim), k, dim, **more)
        return type(found)((found.values, values.shape[dim] - 1 - found.indices))

    def cut(*given: Any) -> Any:
        made = cut_now(*given)
        original = StreamedModel.__init__

        def begun(self: StreamedModel, name: str, *rest: Any, **more: Any) -> None:
            original(self, name, *rest, **more)
            other = last if Path(name) == tmp_path / "out" else plain
            monkeypatch.setattr(torch, "topk", other)

        monkeypatch.setattr(StreamedModel, "__init__", begun)
        return made

    monkeypatch.setattr(slim, "cut", cut)
    method = methods.reap(sparsity=0.25)
    record = prune(folder, method, windows(), tmp_path / "out", streamed=streamed)
    assert record["removed"]["agreement"] < 1e-5


def spoiled(tensor: Tensor) -> Tensor:
    return tensor.flip(0).contiguous() if tensor.ndim > 1 else tensor * 1.01


@pytest.mark.parametrize(
    ("method", "what"),
    [
        (methods.reap(sparsity=0.25), "layers.2.block_sparse_moe.gate."),
        (methods.reap(sparsity=0.25), "layers.1.block_sparse_moe.experts.0.w2"),
        (methods.reap(sparsity=0.25), "layers.0.input_layernorm"),
        (methods.slim(sparsity=0.5, structure="heads"), "layers.1.self_attn.k_proj"),
        (methods.slim(sparsity=0.5, structure="heads"), "layers.2.block_sparse_moe.gate."),
        (methods.depth(sparsity=0.34), "layers.1.self_attn.o_proj"),
        (methods.depth(sparsity=0.34), "embed_tokens"),
        (methods.depth(sparsity=0.34), "lm_head"),
        (methods.depth(sparsity=0.34), "model.norm"),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else value,
)
def test_what_is_wrong_is_found(
    method: Method, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("mixtral").save_pretrained(tmp_path / "dense")
    plain, changed = slim.cut, list[str]()

    def cut(source: Any, kept: Any, out: Path, *rest: Any) -> Any:
        made = plain(source, kept, out, *rest)
        for path in out.glob("model-*.safetensors"):
            tensors = load_file(path)
            own = {n: spoiled(t) for n, t in tensors.items() if what in n}
            save_file(tensors | own, path, {"format": "pt"})
            changed.extend(own)
        return made

    monkeypatch.setattr(slim, "cut", cut)
    with pytest.raises(AssertionError, match="differs"):
        prune(tmp_path / "dense", method, windows(), tmp_path / "out")
    assert changed
    assert not (tmp_path / "out" / "record.json").exists()


def test_one_block_of_both_models_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("mixtral").save_pretrained(tmp_path / "dense")
    models: list[StreamedModel] = []
    begun, load, most = StreamedModel.__init__, StreamedModel.load, [0]

    def remember(self: StreamedModel, *given: Any, **more: Any) -> None:
        begun(self, *given, **more)
        models.append(self)

    def loaded(self: StreamedModel, index: int) -> Any:
        block = load(self, index)
        real = [b for m in models for b in m.blocks if not next(b.parameters()).is_meta]
        most[0] = max(most[0], len(real))
        return block

    monkeypatch.setattr(StreamedModel, "__init__", remember)
    monkeypatch.setattr(StreamedModel, "load", loaded)
    prune(tmp_path / "dense", methods.reap(sparsity=0.25), windows(), tmp_path / "out")
    assert most == [1]
