"""A tokenizer.json as GGUF says it, where llama.cpp cuts text the same way; refused elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.serialization import read_json

_SPACE = "\u2581"  # what SentencePiece writes for a space
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# (pattern that text is split by, whole words looked up before merging) -> llama.cpp's name for both
_SPLITS = {
    ("", False): "gpt-2",
    ("digits", False): "smollm",
    (_WORDS.replace("DIGITS", r"\p{N}{1,3}"), True): "llama-bpe",
    (_WORDS.replace("DIGITS", r"\p{N}{1,3}"), False): "smaug-bpe",
    (_WORDS.replace("DIGITS", r"\p{N}"), False): "qwen2",
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the file says of text.

    Args:
        model: ``gpt2`` (merges of bytes), ``llama`` (as SentencePiece), ``none``.
        pre: how text is cut before merging.
        tokens: by their ids.
        types: of each token, llama.cpp's numbers.
        scores: of each token; the highest merges first. ``llama`` only.
        switches: ``add_bos_token`` and the like.
        special: gguf's SpecialVocab: merges, ids of special tokens, chat template.
        notes: sentences on what is not quite the same.
    """

    model: str = "none"
    pre: str = ""
    tokens: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    switches: dict[str, bool] = field(default_factory=dict)
    special: Any = None
    notes: tuple[str, ...] = ()

    def write(self, writer: Any) -> None:
        """Into the header of gguf's writer."""
        writer.add_tokenizer_model(self.model)
        if self.model == "none":
            return
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.scores:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        self.special.add_to_gguf(writer, quiet=True)
        for name, value in self.switches.items():
            writer.add_bool(f"tokenizer.ggml.{name}", value)


def read_vocabulary(gguf: Any, folder: Path, size: int) -> Vocabulary:
    """The vocabulary of a model's folder.

    Args:
        gguf: the package.
        folder: with a tokenizer.json.
        size: tokens that the embedding has.

    Raises:
        SteppeError: there is none, or llama.cpp would cut text otherwise.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise _not_carried(f"no tokenizer.json in {folder}")
    stored = read_json(path)
    model = stored.get("model") or {}
    if model.get("type") != "BPE":
        raise _not_carried(f"a {model.get('type')} model in {path}")
    if model.get("dropout") or model.get("continuing_subword_prefix"):
        raise _not_carried(f"merges with a prefix or dropout in {path}")
    tokens = _tokens(stored, model, size)
    kinds, special = gguf.TokenType, gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    special.add_special_token = {}  # asked of the tokenizer itself instead
    added = {t["id"]: t["special"] for t in stored.get("added_tokens", [])}
    unknown = model.get("unk_token")
    pieces = model.get("byte_fallback", False)
    types = [
        int(kinds.UNUSED)
        if token is None
        else int(kinds.UNKNOWN)
        if pieces and token == unknown
        else int(kinds.CONTROL if added[i] else kinds.USER_DEFINED)
        if i in added
        else int(kinds.BYTE)
        if pieces and _BYTE.fullmatch(token)
        else int(kinds.NORMAL)
        for i, token in enumerate(tokens)
    ]
    switches = _ends(path, special.special_token_ids)
    named = [f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)]
    shared = {"tokens": named, "types": types, "special": special}
    if pieces:
        normal = {named[i] for i, kind in enumerate(types) if kind == kinds.NORMAL}
        scores = _scores(model, named, normal, path)
        switches["add_space_prefix"] = _prefixed(stored, path)
        special.merges, special.load_merges = [], False
        return Vocabulary(model="llama", pre="default", scores=scores, switches=switches, **shared)
    pre, notes = _split(stored, bool(model.get("ignore_merges")), path)
    return Vocabulary(model="gpt2", pre=pre, switches=switches, notes=notes, **shared)


def _not_carried(got: str) -> SteppeError:
    return SteppeError(
        "a tokenizer is carried into GGUF where llama.cpp cuts text the same way",
        got=got,
        consequence="the file would read other tokens than the model was trained on",
        way_out="--tokenizer none writes the model without it, for programs that give token ids",
    )


def _tokens(stored: Mapping[str, Any], model: Mapping[str, Any], size: int) -> list[str | None]:
    """By id; None where the embedding has a row that no token has."""
    ids = dict(model["vocab"]) | {t["content"]: t["id"] for t in stored.get("added_tokens", [])}
    beyond = [token for token, i in ids.items() if i >= size]
    if beyond:
        raise _not_carried(
            f"{len(beyond)} tokens that the embedding has no row for ({beyond[0]!r})"
        )
    tokens: list[str | None] = [None] * size
    for token, i in ids.items():
        tokens[i] = token
    return tokens


def _ends(path: Path, ids: Mapping[str, int]) -> dict[str, bool]:
    """Which tokens the tokenizer puts before and after a text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    own = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    for bos in (False, True):
        for eos in (False, True):
            before, after = ([ids.get(n)] if on else [] for n, on in (("bos", bos), ("eos", eos)))
            if whole == [*before, *own, *after]:
                return {"add_bos_token": bos, "add_eos_token": eos}
    raise _not_carried(f"special tokens around a text other than bos and eos in {path}")


def _steps(part: Mapping[str, Any] | None, of: str) -> Iterator[Mapping[str, Any]]:
    """A normalizer or pre-tokenizer as the steps it consists of."""
    if part is not None:
        steps = part[of] if part["type"] == "Sequence" else [part]
        yield from steps


def _split(stored: Mapping[str, Any], whole: bool, path: Path) -> tuple[str, tuple[str, ...]]:
    """llama.cpp's name for how a tokenizer of bytes cuts text into words."""
    notes = []
    for step in _steps(stored.get("normalizer"), "normalizers"):
        if step["type"] != "NFC":
            raise _not_carried(f"the normalizer {step['type']} in {path}")
        notes.append("llama.cpp does not compose letters and accents (NFC); the tokenizer did")
    *cuts, last = [*_steps(stored.get("pre_tokenizer"), "pretokenizers")] or [{"type": "none"}]
    pattern = None
    if last["type"] == "ByteLevel" and not last.get("add_prefix_space"):
        own = last.get("use_regex", True)
        if not cuts and own:
            pattern = ""
        elif len(cuts) == 1 and cuts[0]["type"] == "Digits" and own:
            pattern = "digits" if cuts[0].get("individual_digits") else None
        elif len(cuts) == 1 and cuts[0]["type"] == "Split" and not own:
            isolated = cuts[0].get("behavior") == "Isolated" and not cuts[0].get("invert")
            pattern = cuts[0]["pattern"].get("Regex") if isolated else None
    name = _SPLITS.get((pattern, whole)) if pattern is not None else None
    if name is None:
        raise _not_carried(f"a way to cut text into words that has no name there, in {path}")
    return name, tuple(notes)


def _prefixed(stored: Mapping[str, Any], path: Path) -> bool:
    """Whether a space is put before a text that is cut as SentencePiece does."""
    prefix = spaces = False
    for step in _steps(stored.get("normalizer"), "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == _SPACE:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "}:
            spaces = step["content"] == _SPACE
        else:
            raise _not_carried(f"the normalizer {step['type']} in {path}")
    for step in _steps(stored.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] != "Metaspace" or step.get("split", True):
            raise _not_carried(f"the pre-tokenizer {step['type']} in {path}")
        spaces = step["replacement"] == _SPACE
        prefix = prefix or step.get("prepend_scheme", "always") != "never"
    if not spaces:
        raise _not_carried(f"spaces that are not {_SPACE!r} in {path}")
    return prefix


def _scores(
    model: Mapping[str, Any], tokens: list[str], normal: set[str], path: Path
) -> list[float]:
    """A score per token, so that the best is what is merged first.

    llama.cpp merges the two neighbours that make the token of the highest score, whichever two
    they are. That is the order of the merges where all that make one token stand together, and
    none is left out.
    """
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    made = [token for token, _ in groupby("".join(pair) for pair in merges)]
    known = set(merges)
    left_out = (
        token
        for token in normal
        for cut in range(1, len(token))
        if token[:cut] in normal and token[cut:] in normal
        if (token[:cut], token[cut:]) not in known
    )
    missing = next(left_out, None)
    if len(made) != len(set(made)) or missing is not None:
        raise _not_carried(f"merges that no scores of tokens can say, in {path}")
    rank = {token: float(-i) for i, token in enumerate(made)}
    return [rank.get(token, float(-len(made))) for token in tokens]
