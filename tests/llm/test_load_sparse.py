"""A language model with packed matrices: the same model, from less memory."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import steppe
from looped import looped
from steppe.core.errors import SteppeError
from steppe.llm import compact as module
from steppe.llm.load import load_dense
from steppe.sparse import Linear, formats_of
from steppe.sparse.choose import Choice

transformers = pytest.importorskip("transformers", minversion="5.0")

SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", SIZES),
    "tied": ("LlamaForCausalLM", SIZES | {"tie_word_embeddings": True}),
    "gpt2": (
        "GPT2LMHeadModel",
        GPT2 | {"initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "mixtral": ("MixtralForCausalLM", SIZES | {"num_local_experts": 4}),
}
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])


def write(folder: Path, family: str, dtype: torch.dtype = torch.bfloat16) -> Path:
    name, options = FAMILIES[family]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**options))
    inner = ("embed", "wte", "wpe", "lm_head")
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.ndim > 1 and not any(part in key for part in inner):
                p.masked_fill_(torch.rand(p.shape) < 0.75, 0)
    model.generation_config.max_new_tokens = 9
    model.to(dtype).save_pretrained(folder)
    return folder


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def same_state(one: Any, other: Any) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    for key, tensor in first.items():
        assert tensor.dtype == second[key].dtype
        assert torch.equal(bits(tensor), bits(second[key])), key


@pytest.mark.parametrize("family", FAMILIES)
@looped(format=["bits", "index", "csr"])
def test_it_is_the_same_model(
    family: str, format: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = write(tmp_path_factory.mktemp("run"), family)
    dense, sparse = load_dense(folder, "cpu", None), steppe.load(folder, sparse=format)
    assert type(sparse) is type(dense)
    assert (sparse.dtype, sparse.training) == (dense.dtype, False)
    with torch.no_grad():
        torch.testing.assert_close(sparse(IDS).logits, dense(IDS).logits, atol=1e-4, rtol=1e-4)
    text = sparse.generate(IDS, do_sample=False)
    assert torch.equal(text, dense.generate(IDS, do_sample=False))
    assert text.shape[1] <= 4 + 9
    same_state(sparse, dense)
    assert sparse.generation_config.to_dict() == dense.generation_config.to_dict()
    records = {r.name: r for r in formats_of(sparse)}
    inside = [r for n, r in records.items() if ".layers." in n or ".h." in n]
    taken = [r for r in inside if r.why == "asked for"]
    assert {r.format for r in taken} == {format}
    assert len(inside) - len(taken) == (2 if family == "mixtral" else 0), "the routers"
    buffers = {id(b): b.nbytes for m in sparse.modules() for b in m._buffers.values()}
    packed = sum(r.bytes for r in records.values() if r.format != "dense")
    rotary = sum(b.nbytes for n, b in dense.named_buffers())
    assert sum(buffers.values()) == packed + rotary
    tied = family in ("tied", "gpt2")
    assert (sparse.lm_head.weight is sparse.get_input_embeddings().weight) == tied
    if tied:
        assert records["lm_head"].why == "tied to another layer"
        assert records["lm_head"].bytes == 0, "its bytes are the embedding's"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_the_dense_model(family: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", family)
    sparse = steppe.load(folder, sparse="bits", dtype=torch.bfloat16)
    twin = copy.deepcopy(sparse)
    sparse.save_pretrained(tmp_path / "saved")
    again = load_dense(tmp_path / "saved", "cpu", "bfloat16")
    same_state(again, load_dense(folder, "cpu", "bfloat16"))
    twin.load_state_dict(again.state_dict())
    same_state(twin, again)
    assert torch.equal(twin.float()(IDS).logits, sparse.float()(IDS).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compact_folder_is_read_as_it_is_stored(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # checked in a process of its own elsewhere
    monkeypatch.setattr(module, "_in_a_fresh_process", lambda *_: {"tensors": 0, "logits": False})
    run = write(tmp_path / "run", family)
    for name in ("recipe.yaml", "record.json"):
        (run / name).write_text("{}\n")
    module.compact(run, tmp_path / "compact", verify="tensors")
    for dtype in (None, "bfloat16"):
        sparse = steppe.load(tmp_path / "compact", sparse="bits", dtype=dtype)
        same_state(sparse, load_dense(run, "cpu", dtype))
        layers = [m for m in sparse.modules() if isinstance(m, Linear)]
        assert layers
        assert {m.matrix.stored for m in layers} == {torch.bfloat16}


def test_auto_keeps_dense_where_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "run", "llama")
    asked = []

    def choose(question: Any) -> Choice:
        asked.append(question)
        wide = question.columns == 64
        return Choice(format="bits" if wide else "dense", why=f"{question.columns} wide")

    monkeypatch.setattr("steppe.sparse.conversion.choose", choose)
    sparse = steppe.load(folder)
    records = {r.name: (r.format, r.why) for r in formats_of(sparse)}
    assert records["model.layers.0.mlp.down_proj"] == ("bits", "64 wide")
    assert records["model.layers.1.self_attn.q_proj"] == ("dense", "32 wide")
    assert type(sparse.model.layers[1].self_attn.q_proj) is torch.nn.Linear
    same_state(sparse, load_dense(folder, "cpu", None))
    assert {(q.stored, q.dtype, q.tokens) for q in asked} == {("bfloat16", "float32", 1)}
    assert {q.sparsity for q in asked if q.rows != 48} <= {0.7, 0.725, 0.75, 0.775, 0.8}


@looped(sparse=["dense", None])
def test_without_formats_it_is_the_plain_model(
    sparse: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = write(tmp_path_factory.mktemp("run"), "llama")
    model = steppe.load(folder, sparse=sparse)
    assert not any(isinstance(m, Linear) for m in model.modules())
    same_state(model, load_dense(folder, "cpu", None))
    assert {r.why for r in formats_of(model)} == {"not packed", "Embedding is no linear layer"}


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", "llama")
    with pytest.raises(SteppeError, match=r"unknown format; got 'bitts'"):
        steppe.load(folder, sparse="bitts")
    with pytest.raises(SteppeError, match=r"unknown dtype; got 'int4'"):
        steppe.load(folder, dtype="int4")
    with pytest.raises(SteppeError, match=r"unknown dtype; got 'int8'"):
        steppe.load(folder, dtype=torch.int8)
    with pytest.raises(SteppeError, match="the device must exist"):
        steppe.load(folder, sparse="bits", device="cuda:77")
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    held.pop("model.layers.1.mlp.up_proj.weight")
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SteppeError, match=r"every weight.*no model\.layers\.1\.mlp\.up_proj"):
        steppe.load(folder, sparse="bits")


GROWN = """
import ctypes, json, sys, threading, time, torch
from pathlib import Path
import steppe, transformers
from steppe.llm.load import load_dense
torch.set_num_threads(1)

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith("RssAnon:"))

trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc

def grown(work):
    if trim is not None:
        trim(0)  # what is free waits in the allocator for the next use; how much differs
    peak, ended = [0], threading.Event()
    def watch():
        while not ended.is_set():
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.001)
    before, watcher = anonymous(), threading.Thread(target=watch)
    watcher.start()
    model = work()
    ended.set()
    watcher.join()
    most = max(peak[0], anonymous()) - before
    return model, most, None if trim is None else anonymous() - before

small, large = map(Path, sys.argv[1:3])
load_dense(small, "cpu", None), steppe.load(small, sparse="bits")  # what is imported late
model, peak, rest = grown(lambda: steppe.load(large, sparse="bits"))
records = steppe.sparse.formats_of(model)
print(json.dumps({
    "peak": peak,
    "rest": rest,
    "formats": sum(r.bytes for r in records),
    "dense": sum(r.dense_bytes for r in records),
    "largest": max(r.dense_bytes for r in records),
}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_memory_never_reaches_that_of_the_dense_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = write(tmp_path / "small", "llama")
    wide = SIZES | {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4}
    monkeypatch.setitem(FAMILIES, "llama", ("LlamaForCausalLM", wide))
    large = write(tmp_path / "large", "llama")
    done = subprocess.run(
        [sys.executable, "-c", GROWN, str(small), str(large)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout.strip().splitlines()[-1])
    assert sizes["formats"] < 0.4 * sizes["dense"]
    # what is read, what is packed, and what the allocator keeps of both
    assert sizes["peak"] < sizes["formats"] + 5 * sizes["largest"] < sizes["dense"] / 2
    assert sizes["rest"] is None or sizes["rest"] < 1.05 * sizes["formats"]


def test_a_model_that_was_loaded_in_inference_mode_is_as_any_other(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", "llama")
    with torch.inference_mode():
        model = steppe.load(folder, sparse="bits")
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_inference() for tensor in tensors)
    # torch copies the weight of a layer without a gradient for inputs that are cut out of others
    assert all(parameter.requires_grad for parameter in model.parameters())
