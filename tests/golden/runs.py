"""Tiny seeded runs: a network, a language model, commands; each yields what is digested."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import io
import itertools
import json
import tempfile
from pathlib import Path
from unittest import mock

import torch
from adapter import (
    AXES,
    compose,
    cost_of,
    main,
    objective_loss,
    pruned,
    sparsifier,
    summary,
)
from safetensors.torch import load_file
from torch import nn

import steppe
from steppe import SteppeError
from steppe.methods import METHODS

STEPS, EPOCH, SPARSITY = 12, 4, 0.5
# options that make a tiny run cut at least twice, for every method and part that has them
SHORT = {
    "sparsity": SPARSITY,
    "interval": 2,
    "every": 2,
    "cycles": 3,
    "candidates": 5,
    "food": 3,
    "update_every": 1,
    "hold": 1,
    "pick_delta": 0.004,
    "warmup": 0.1,
    "pruned": 0.7,
}
GROWING = {"delta": 0.2, "ceiling": 0.6}
OWN = {
    "greg1": GROWING,
    "greg2": GROWING,
    "growing_reg": GROWING,
    "mlprune": {"at": 0.5},
    "pilot": {"l1_threshold": 1.0},
    "polarreg": {"penalty": 0.01},
    "admm": {"penalty": 0.05},
    "dense": {"rho": 0.05},
    # the paper's way; the default has cases of its own
    "safe": {"start": None},
    "safe_plus": {"start": None},
    "phased": {"phases": [[0.5, "adasap"], [1.0, {"name": "asam", "rho": 0.5}]]},
}
FORMS = {"nm": "2:4", "block": "block:2x2"}


def chosen(name, known):
    """The options of the tables above that something of this name takes."""
    return {k: v for k, v in (SHORT | OWN.get(name, {})).items() if k in known}


def published(name, make=None, **more):
    """A registered method with short options."""
    known = inspect.signature(METHODS[name]).parameters
    options = chosen(name, known) | more
    if more.get("start"):  # its zeros stay: nothing pulls, at no interval
        options.pop("interval", None)
    return make(name, **options) if make else METHODS[name](**options)


def part(axis, name):
    """Plain data of a registered part with short options."""
    if axis == "structure":
        return FORMS.get(name, name)
    known = {f.name for f in dataclasses.fields(AXES[axis][name])}
    own = chosen(name, known)
    # sam's `every` would leave out perturbations that the base does not
    return {"name": name} | ({k: v for k, v in own.items() if axis != "perturb" or k == "phases"})


def composed(**names):
    """A method of named parts around a plain base."""
    base = {"budget": "pooled", "schedule": "linear"} | names
    return compose({axis: part(axis, name) for axis, name in base.items()})


class Net(nn.Module):
    """Three convolutions with batch norm and a residual: two groups of coupled channels."""

    def __init__(self):
        super().__init__()
        # every group has a norm, as some scores look at nothing else
        self.conv1 = nn.Conv2d(4, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(24)
        self.conv3 = nn.Conv2d(24, 16, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)
        self.norms = [self.bn1, self.bn2, self.bn3]
        for bn in self.norms:  # the layers differ, so that budgets choose different widths
            bn.weight.data.copy_(torch.rand(bn.num_features) ** 2 * bn.num_features / 16)

    def polarise(self):
        """Scales in two humps, which budget valley looks for."""
        for bn in self.norms:
            bn.weight.data.fill_(1.0)[::2] = 0.02
            bn.weight.data += torch.rand(bn.num_features) * 0.01

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = (x + self.bn3(self.conv3(self.bn2(self.conv2(x)).relu()))).relu()
        return self.head(x.mean((2, 3)))


def images():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 4, 5, 5, generator=generator)
    return x, torch.randint(4, (48,), generator=generator)


def trial(kept):
    """How good a choice of channels is: any number that depends on it alone."""
    value = 0.0
    for i, (_, k) in enumerate(sorted(kept.items())):
        weights = torch.arange(len(k)) % 5 - 1.7
        value += 1e-3 * float(weights.mul(k).sum()) - (float(k.float().mean()) - 0.4 - 0.2 * i) ** 2
    return value


def trained(method, grouped=False, cost=None, resume=None):
    """(network, sparsifier, losses) after `STEPS` steps; with ``resume``, in two sittings."""
    torch.manual_seed(0)
    net, (x, y), losses, rare = Net(), images(), [], {}
    if method.score.name == "bn_gamma":
        net.polarise()
    if grouped:
        groups = steppe.channel_groups(net, x[:2])
        made = cost_of(cost, net, x[:2], groups) if cost else None
        rare = {"groups": groups, "cost": made, "trial": trial}

    def start(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        return sparsifier(net, optimizer, method, STEPS, EPOCH, **rare)

    steps = start(net)
    for i in range(STEPS):
        if i == resume:
            state, weights = steps.state_dict(), {k: v.clone() for k, v in net.state_dict().items()}
            torch.manual_seed(5)
            net = Net()
            steps = start(net)
            net.load_state_dict(weights)
            steps.load_state_dict(state)
        rows = slice(i % EPOCH * 12, i % EPOCH * 12 + 12)

        def closure(net=net, rows=rows, steps=steps):
            out = net(x[rows])
            right = (out.argmax(1) == y[rows]).float().mean()
            loss = nn.functional.cross_entropy(out, y[rows])
            return objective_loss(steps, method, loss, out, x[rows]), right

        losses.append(float(steps.step(closure)))
    return net, steps, losses


def tensors(folder, pattern):
    """Every tensor in the files of a folder that have such names."""
    return {k: v for path in sorted(folder.glob(pattern)) for k, v in load_file(path).items()}


def digest(tensors):
    """sha256 of the names, types, shapes and bytes of tensors, in the order of their names."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous()
        whole.update(f"{name} {flat.dtype} {tuple(flat.shape)} ".encode())
        whole.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def image_case(build, grouped=False, cost=None, resume=False, remove=False):
    method = build()
    net, steps, losses = trained(method, grouped, cost)
    finished = steps.finish()
    yield "weights", net.state_dict()
    yield "masks", finished.masks
    yield "record", summary(finished) | {"losses": losses}
    yield "method", method.to_dict()
    if resume:
        again, steps, _ = trained(method, grouped, cost, resume=6)
        steps.finish()
        mine, other = digest(net.state_dict()), digest(again.state_dict())
        yield "resume", {"bits": "the same" if mine == other else "others"}
    if remove:
        small = steppe.remove(net, images()[0][:2])
        yield "removed-weights", small.model.state_dict()
        yield "removed-record", small.report


class Killed(BaseException):
    """The end of a process, as far as one can have it inside."""


def killed(call, after):
    """Call something that dies at its backward pass number ``after``."""
    calls, backward = itertools.count(1), torch.Tensor.backward

    def counted(*given, **options):
        if next(calls) == after:
            raise Killed
        return backward(*given, **options)

    with mock.patch.object(torch.Tensor, "backward", counted), contextlib.suppress(Killed):
        call()
        raise AssertionError("it was to be killed")


def language_case(folder, build, dies=None, **options):
    tokens = torch.randint(0, 26, (8, 16), generator=torch.Generator().manual_seed(2))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        if dies:
            killed(lambda: pruned(folder, build(), tokens, out, **options), after=dies)
        record = pruned(folder, build(), tokens, out, **options)
        yield "weights", tensors(out, "model*.safetensors")
        yield "masks", tensors(out, "masks*.safetensors")
        yield "record", record


def command(*arguments):
    """The one JSON object that a command prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main([*map(str, arguments), "--json", "--quiet"])
        except SystemExit as end:
            if end.code:
                text = said.getvalue().strip()
                raise SteppeError(text.removeprefix("steppe: ") or f"exit {end.code}") from None
    return json.loads(printed.getvalue().strip().splitlines()[-1])


def train_case(*arguments, resume=False, remove=False):
    whole = [
        *("train", "--data", "digits", "--model", "small-cnn", "--epochs", 3, "--batch-size", 64),
        *("--train-size", 256, "--device", "cpu", "--sparsity", SPARSITY),
        *("--set", "data.test_size=200", "--set", "train.bn_batches=2"),
        *("--set", "data.validation=64", "--set", "train.checkpoint_steps=3"),
        *("--set", "model.options={channels: [8, 16, 16]}", *arguments),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        run, again, small = (Path(scratch) / name for name in ("run", "again", "small"))
        yield "record", command(*whole, "--out", run)
        yield "weights", tensors(run, "model*.safetensors")
        yield "masks", tensors(run, "masks*.safetensors")
        yield "metrics", [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
        if resume:
            killed(lambda: command(*whole, "--out", again), after=11)
            command(*whole, "--out", again)
            mine, other = (digest(tensors(x, "model*.safetensors")) for x in (run, again))
            yield "resume", {"bits": "the same" if mine == other else "others"}
        if remove:
            yield "removed-record", command("remove", run, "--out", small)
            yield "removed-weights", tensors(small, "model*.safetensors")


def prune_case(folder):
    """The command, with texts for calibration and evaluation."""
    words = "abcdefghijklmnopqrstuvwxy"
    with tempfile.TemporaryDirectory() as scratch:
        text, out = Path(scratch) / "words.txt", Path(scratch) / "out"
        text.write_text(" ".join(words[(i * i + i // 7) % 25] for i in range(600)))
        record = command(
            *("prune", folder, "--method", "sparsegpt", "--sparsity", SPARSITY, "--out", out),
            *("--calibration", text, "--evaluate", text, "--samples", 8, "--window", 16),
            "--no-remember",
            *("--device", "cpu"),
        )
        yield "weights", tensors(out, "model*.safetensors")
        yield "record", record


def language_model(folder):
    """A random LLaMA of 2 blocks and a tokenizer of 26 words, written into a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    words = {word: i for i, word in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxy"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"unk_token": "<unk>", "eos_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    logging.disable_progress_bar()
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
