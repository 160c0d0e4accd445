"""Wrong input for every verb: arguments, recipes, folders with one file damaged.

A command may do its work (exit code 0) or refuse (2, with a line that says why). A traceback, exit
code 1, an internal error, or something half written where it refused is a failure. All runs are in
this process; a run that was stopped goes on where it was.

    python benchmarks/fuzz.py --work /tmp/fuzz            # 330 inputs, the record
    python benchmarks/fuzz.py --work /tmp/fuzz --only 17  # one of them, with its output
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from record_file import add_record, write_record

from steppe.cli.main import main as steppe_command

COUNTS = {"arguments": 130, "recipe": 90, "damage": 110}
SECONDS = 60
MEMORY = 24 * 2**30

WRONG: list[Any] = [
    "", " ", "-1", "0", "nan", "inf", "-inf", "1e400", "99999999999999999999", "1.5", "true",
    "[]", "{}", "null", "é😀", "\x00a", "a,b", ",", "../x", "/dev/null", "/dev/null/at/all", ".",
    "--", "'",    "a" * 300, "%s", "1;2", "name with spaces", "2:4", "clean", "safe",
]  # fmt: skip
# What would be a long run, not a mistake: these values are wrong for it.
SMALL = ["", "-1", "0", "nan", "x", "1.5", "é", "--", "[]"]
PATIENT = {"demo"}
WHOLE = {"bisect"}  # runs that are done stay, whatever is found of them


class TooSlow(BaseException):
    """A command took longer than `SECONDS`."""


@dataclass(frozen=True)
class Outcome:
    """What an input led to.

    Args:
        number: of the input.
        kind: arguments, recipe or damage.
        words: the command.
        what: was wrong.
        code: the exit code.
        said: its last line.
        failure: "" when it is as it should be.
    """

    number: int
    kind: str
    words: list[str]
    what: str
    code: int | None
    said: str
    failure: str
    seconds: float


class Folders:
    """What the commands work on: runs, models, tables; made once.

    Args:
        work: the folder that holds them.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.text, self.table = work / "text.txt", work / "table.json"
        self.run, self.slim, self.channels = (work / n for n in ("run", "slim", "channels"))
        self.model, self.pruned, self.compact = (work / n for n in ("model", "pruned", "compact"))
        self.recipe = work / "recipe.yaml"

    def make(self, *, compact: bool = True) -> None:
        """Make what is not there; the compact model is checked in another process, for seconds."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.text.write_text("the cat sat on the mat and the dog ran after it . " * 60)
        base = {
            "model": {"name": "small-cnn", "options": {"channels": [4, 8, 8]}},
            "data": {"name": "digits", "augment": "none", "train_size": 64, "test_size": 32},
            "method": {"name": "gmp", "sparsity": 0.8},
            "train": {"epochs": 1, "batch_size": 32, "lr": 0.05},
            "device": "cpu",
            "seed": 0,
        }
        self.recipe.write_text(yaml.safe_dump(base))
        channels = base | {"method": {"name": "taylor", "sparsity": 0.5}}
        (self.work / "channels.yaml").write_text(yaml.safe_dump(channels))
        if not self.model.exists():
            language_model(self.model, self.text)
        for out, words in (
            (self.run, ["train", self.recipe, "--out", self.run]),
            (self.channels, ["train", self.work / "channels.yaml", "--out", self.channels]),
            (self.slim, ["remove", self.channels, "--out", self.slim]),
            (self.pruned, prune_words(self, self.pruned)),
            (self.table, latency_words(self)),
            (self.compact, ["export", self.pruned, "--to", "compact", "--out", self.compact]),
        ):
            if not out.exists() and (compact or out != self.compact):
                code, text, failure = command([*map(str, words), "--quiet"], 600)
                assert code == 0, (words, text, failure)


def prune_words(at: Folders, out: Path | str) -> list[Any]:
    """steppe prune, as small as it gets."""
    options = {"--method": "wanda", "--sparsity": 0.5, "--calibration": at.text, "--samples": 2}
    words = ["prune", at.model, *(w for pair in options.items() for w in pair)]
    return [*words, "--window", 8, "--device", "cpu", "--out", out]


def latency_words(at: Folders) -> list[Any]:
    """steppe latency, as small as it gets."""
    return [
        "latency",
        "small-cnn",
        "--batch",
        1,
        "--input-size",
        8,
        "--passes",
        1,
        "--out",
        at.table,
    ]


def language_model(folder: Path, text: Path) -> None:
    """A Llama of two layers with words as tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", *dict.fromkeys(text.read_text().split())]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def command(words: list[str], seconds: int = SECONDS) -> tuple[int | None, str, str]:
    """Exit code, what it said on standard error, and a traceback if there is one."""
    out, err = io.StringIO(), io.StringIO()

    def stop(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    code, failure = None, ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            warnings.simplefilter("ignore")
            steppe_command(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except TooSlow:
        pass
    except BaseException:
        failure = traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, err.getvalue(), failure


def bases(at: Folders, out: Path) -> dict[str, list[Any]]:
    """A command of each verb that works."""
    evaluated = ["--on", "clean,corruptions,attacks", "--limit", 8, "--corruptions", "contrast"]
    diagonal = ["--samples", 5, "--size", 10, "--support", 2, "--inits", 1, "--steps", 200]
    return {
        "train": ["train", at.recipe, "--out", out],
        "evaluate": ["evaluate", at.work / "copy", *evaluated],
        "perplexity": ["evaluate", at.work / "copy-model", "--on", "perplexity", "--text", at.text],
        "prune": prune_words(at, out),
        "plan": ["plan", *prune_words(at, out)[1:]],
        "export": ["export", at.pruned, "--to", "compact", "--out", out],
        "remove": ["remove", at.channels, "--out", out],
        "latency": [*latency_words(at)[:-1], out / "table.json"],
        "report": ["report", at.run, at.slim, "--out", out / "report.html"],
        "methods": ["methods", "safe"],
        "recipes": ["recipes", "--copy", "digits", "--to", out],
        "diagonal": ["diagonal", *diagonal, "--out", out],
        "bisect": ["bisect", at.recipe, "--out", out, "--tries", 2, "--low", "1e-5"],
        "demo": ["demo", "--out", out, "--seeds", "0"],
    }


def options_of(verb: str) -> list[str]:
    """The options that a verb's help names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        steppe_command([verb, "--help"])
    return [o for o in re.findall(r"^  (--[a-z0-9-]+) <", text.getvalue(), re.M) if o != "--help"]


def arguments(at: Folders, draw: random.Random, out: Path) -> tuple[list[Any], str]:
    """A command with an argument that is wrong, missing, or not one of its own."""
    name = draw.choice(list(bases(at, out)))
    words = list(bases(at, out)[name])
    verb = words[0]
    values = SMALL if name in PATIENT else WRONG
    copies = [at.work / "copy", at.work / "copy-model"]  # as something may be written there
    value = draw.choice([*values, str(at.text), *map(str, copies)])
    kind = draw.choice(["value", "value", "value", "value", "positional", "missing", "unknown"])
    if kind == "value":
        option = draw.choice(options_of(verb) or ["--json"])
        if name in PATIENT and option in ("--out", "--seed"):
            option = "--jobs"
        if option in words:
            words[words.index(option) + 1] = value
            return words, f"{option} {value!r}"
        return [*words, option, value], f"{option} {value!r}"
    if kind == "positional":
        words[1:2] = [value] if len(words) > 1 and not str(words[1]).startswith("-") else words[1:2]
        return words, f"positional {value!r}"
    if kind == "missing":
        gone = draw.randrange(1, len(words)) if len(words) > 1 else 0
        if name in PATIENT:
            return ["demo", "--seeds"], "no value"
        return words[:gone] + words[gone + 1 :], f"without {words[gone]!r}"
    return [*words, draw.choice(["--nonsense", "-x", "more", "--jsn"]), value], "unknown"


def recipe(at: Folders, draw: random.Random, out: Path) -> tuple[list[Any], str]:
    """steppe train or bisect on a recipe with something wrong in it."""
    path = out.parent / f"{out.name}.yaml"
    tree = yaml.safe_load(at.recipe.read_text())
    if draw.random() < 0.4:
        tree = yaml.safe_load((at.work / "channels.yaml").read_text())
    text, what = mutated(tree, draw)
    path.write_bytes(text)
    if draw.random() < 0.15:
        return ["bisect", path, "--out", out, "--tries", 2], what
    return ["train", path, "--out", out], what


NODES: list[Any] = [
    None, "", "x", -1, 0, 1.5, float("nan"), float("inf"), True, [], {}, [1, 2], {"a": 1}, "é",
    "1e-3",    10**30, [[]], {"name": "safe"}, {"name": None}, "digits", "2:4",
]  # fmt: skip


def mutated(tree: dict[str, Any], draw: random.Random) -> tuple[bytes, str]:
    """The recipe's text after one change."""
    how = draw.choice(["value", "value", "value", "value", "remove", "misspell", "add", "text"])
    if how == "text":
        good = yaml.safe_dump(tree)
        texts = {
            "empty": b"",
            "binary": bytes(draw.randrange(256) for _ in range(200)),
            "list": b"- a\n- b\n",
            "syntax": good.replace(": ", ":", 1).encode() + b"\n  - [unclosed",
            "tabs": good.replace("\n", "\n\t").encode(),
            "number": b"42\n",
            "latin": good.encode() + "\nname: caf\xe9\n".encode("latin-1"),
            "twice": (good + good).encode(),
            "anchor": b"a: &a [*a]\n",
            "python": b"a: !!python/object/apply:os.system ['true']\n",
            "documents": (good + "---\n" + good).encode(),
        }
        name = draw.choice(list(texts))
        return texts[name], f"text: {name}"
    places = list(paths(tree))
    where = draw.choice(places)
    *parents, last = where
    node = tree
    for key in parents:
        node = node[key]
    what = ".".join(map(str, where))
    if how == "value":
        node[last] = draw.choice(NODES)
        what = f"{what}: {node[last]!r}"
    elif how == "remove":
        del node[last]
        what = f"without {what}"
    elif how == "misspell":
        node[str(last)[:-1] + "z"] = node.pop(last)
        what = f"misspelt {what}"
    else:
        node[draw.choice(["nonsense", "", 7, "lr", "score", "budget"])] = draw.choice(NODES)
        what = f"more beside {what}"
    return yaml.safe_dump(tree, allow_unicode=True).encode(), what


def paths(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of a nested dict."""
    for key, value in tree.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from paths(value, (*at, key))


def damage(at: Folders, draw: random.Random, out: Path) -> tuple[list[Any], str]:
    """A command on a folder of which one file is damaged."""
    folders = [at.run, at.slim, at.channels, at.model, at.pruned, at.compact, at.table]
    source = draw.choice([folder for folder in folders if folder.exists()])
    copy = out.parent / f"{out.name}-damaged"
    shutil.rmtree(copy, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        copy.mkdir()
        shutil.copy(source, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.suffix != ".html")
    path = draw.choice(files)
    how = draw.choice(list(DAMAGES))
    DAMAGES[how](path, draw)
    words = draw.choice(uses(at, source, copy, path, out))
    return words, f"{path.relative_to(copy)} {how}"


def uses(at: Folders, source: Path, copy: Path, path: Path, out: Path) -> list[list[Any]]:
    """Commands that read a folder."""
    if source == at.table:
        words = ["--method", "halp", "--sparsity", "0.3", "--target", "latency", "--table", path]
        return [
            ["train", at.work / "channels.yaml", *words, "--out", out],
            [*latency_words(at)[:-1], path],
        ]
    report = ["report", copy, "--out", out / "report.html"]
    if source in (at.run, at.slim, at.channels):
        train = ["train", copy / "recipe.yaml", "--out", copy]
        return [
            ["evaluate", copy, "--on", "clean,attacks", "--limit", 4],
            ["evaluate", at.run, "--on", "clean", "--beside", copy],
            ["remove", copy, "--out", out],
            ["latency", copy, "--batch", 1, "--passes", 1, "--out", out / "table.json"],
            report,
            train,
            [*train, "--weights", copy / "model.safetensors"],
        ]
    evaluate = ["evaluate", copy, "--on", "perplexity", "--text", at.text, "--window", 8]
    prune = prune_words(at, out)
    prune[1] = copy
    again = prune_words(at, copy)
    export = ["export", copy, "--to", "compact", "--out", out]
    if source == at.model:
        return [evaluate, prune, ["plan", *prune[1:]]]
    return [evaluate, prune, again, export, report]


def _nested(path: Path, draw: random.Random) -> None:
    """JSON of another shape."""
    path.write_text(draw.choice(["[]", "{}", "null", '"text"', "[1, 2]", '{"a": {"b": []}}', "{"]))


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(8):
        if data:
            data[draw.randrange(len(data))] ^= 255
    path.write_bytes(data)


def _folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _value(path: Path, draw: random.Random) -> None:
    """One value of a JSON or YAML file is of another type."""
    try:
        tree = yaml.safe_load(path.read_text())
        where = draw.choice(list(paths(tree)))
    except (ValueError, AttributeError, IndexError, yaml.YAMLError):
        return _flip(path, draw)
    node = tree
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = draw.choice([None, "x", -1, [], {}, 10**30])
    path.write_text(json.dumps(tree) if path.suffix == ".json" else yaml.safe_dump(tree))


DAMAGES: dict[str, Callable[[Path, random.Random], Any]] = {
    "truncated": lambda path, draw: path.write_bytes(
        path.read_bytes()[: draw.randrange(1 + path.stat().st_size)]
    ),
    "zeroed": lambda path, draw: path.write_bytes(bytes(path.stat().st_size)),
    "emptied": lambda path, draw: path.write_bytes(b""),
    "deleted": lambda path, draw: path.unlink(),
    "a folder": _folder,
    "flipped": _flip,
    "another shape": _nested,
    "another value": _value,
    "a value": _value,
}
KINDS = {"arguments": arguments, "recipe": recipe, "damage": damage}


def attempt(at: Folders, number: int, kind: str, seed: int = 0, *, show: bool = False) -> Outcome:
    """One input: made by its number and the seed alone, run, judged."""
    draw = random.Random(f"{kind}/{number}/{seed}")
    out = at.work / "scratch" / f"{number}"
    out.parent.mkdir(exist_ok=True)
    for copy, source in (("copy", at.run), ("copy-model", at.pruned)):
        if kind == "arguments":
            shutil.rmtree(at.work / copy, ignore_errors=True)
            shutil.copytree(source, at.work / copy)
    for left in out.parent.glob(f"{number}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    words, what = KINDS[kind](at, draw, out)
    given = [str(w) for w in words]
    begun, here = time.perf_counter(), os.getcwd()
    os.chdir(out.parent)  # what is written to a relative path lies there
    code, said, failure = command(given)
    os.chdir(here)
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if show:
        print(given, what, code, said, failure, sep="\n")
    if not failure and "internal error" in said:
        failure = "internal error: " + next(line for line in lines if "internal error" in line)
    elif not failure and code not in (0, 2, None):
        failure = f"exit code {code}"
    elif not failure and code == 2 and not last.startswith("steppe: "):
        failure = f"no line that says why: {last!r}"
    elif not failure and code == 2 and given[0] not in WHOLE and any(out.rglob("*")):
        failure = f"left {sorted(str(p.relative_to(out)) for p in out.rglob('*'))[:5]}"
    shutil.rmtree(out, ignore_errors=True)
    seconds = round(time.perf_counter() - begun, 2)
    return Outcome(number, kind, given, what, code, last[:400], failure[-3000:], seconds)


def main() -> None:
    """All inputs that are not in the work folder's list yet, then the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0, help="another seed is other inputs")
    parser.add_argument("--again", action="store_true", help="those that failed before")
    add_record(parser, "fuzz")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    at = Folders(asked.work.resolve())
    at.make()
    kinds = [kind for kind, count in COUNTS.items() for _ in range(count)]
    if asked.only is not None:
        attempt(at, asked.only, kinds[asked.only], asked.seed, show=True)
        return
    kept = at.work / f"outcomes-{asked.seed}.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {row["number"]: row for row in rows if not (asked.again and row["failure"])}
    for number, kind in enumerate(kinds):
        if number in done:
            continue
        outcome = attempt(at, number, kind, asked.seed)
        done[number] = asdict(outcome)
        kept.write_text("".join(json.dumps(row) + "\n" for row in done.values()))
        if outcome.failure:
            print(number, outcome.what, outcome.words, outcome.failure, flush=True)
    verbs = Counter(row["words"][0] for row in done.values())
    codes = Counter(str(row["code"]) for row in done.values())
    failed = sorted(n for n, row in done.items() if row["failure"])
    record = {
        "inputs": len(done),
        "by_kind": COUNTS,
        "by_verb": dict(sorted(verbs.items())),
        "by_exit_code": {
            ("stopped, as it worked on" if k == "None" else k): v for k, v in codes.items()
        },
        "failures": failed,
        "command": "python benchmarks/fuzz.py --work FOLDER",
    }
    write_record(asked.record, record)
    print(json.dumps(record))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
