"""Small tokenizers of every common kind, trained on a page of made-up text."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"


WORDS = [
    *(
        "the",
        "cat's",
        "sat",
        "on",
        "a",
        "mat,",
        "it'll",
        "\u0434\u043e\u043c",
        "\u03bb\u03b3\u03c2",
    ),
    *(
        "e\u0301t\u00e9",
        "na\u00efve",
        "X2",
        "12345",
        "(don't)",
        "\u4f60\u597d",
        "<s>",
        "</s>",
        "\ufb01",
    ),
]
GAPS = [*[" "] * 12, "  ", "   ", "\n", "\n\n", " \n ", "\t", "\r\n", " \u00a0", "", "\u2581"]


def page(letters: int, seed: int = 0) -> str:
    """Text with all that is hard: spaces in rows, line ends, marks, accents, other scripts."""
    draw = random.Random(seed)
    made = ""
    while len(made) < letters:
        made += draw.choice(WORDS) + draw.choice(GAPS)
    return made[:letters]


def _bpe(**parts: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    special = ["<unk>", "<s>", "</s>"]
    alphabet = split.ByteLevel.alphabet() if "decoder" in parts else []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_lines(parts), trainer)
    return tokenizer


def _lines(parts: Any) -> list[str]:
    # without words of its own a merge could reach over a space: SentencePiece never lets it
    text = page(6000, 9)
    whole = getattr(parts.get("pre_tokenizer"), "split", False) is False
    return re.split("[ \u2581]", text) if whole and "decoder" not in parts else [text]


def gpt2() -> Tokenizer:
    return _bpe(pre_tokenizer=split.ByteLevel(add_prefix_space=False), decoder=decoders.ByteLevel())


def gpt2_prefix() -> Tokenizer:
    return _bpe(pre_tokenizer=split.ByteLevel(add_prefix_space=True), decoder=decoders.ByteLevel())


def _split(pattern: str, *more: Any) -> Tokenizer:
    steps = [
        split.Split(Regex(pattern), "isolated"),
        *more,
        split.ByteLevel(False, use_regex=False),
    ]
    return _bpe(pre_tokenizer=split.Sequence(steps), decoder=decoders.ByteLevel())


def gpt4() -> Tokenizer:
    return _split(GPT4)


def deepseek() -> Tokenizer:
    return _split(r"\p{N}{1,3}", split.Split(Regex(DEEPSEEK), "isolated"))


def llama2() -> Tokenizer:
    return _bpe(
        normalizer=normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    )


def metaspace() -> Tokenizer:
    return _bpe(pre_tokenizer=split.Metaspace(prepend_scheme="always"))


def metaspace_first() -> Tokenizer:
    return _bpe(pre_tokenizer=split.Metaspace(prepend_scheme="first", split=False))


def bert() -> Tokenizer:
    return _bpe(normalizer=normalizers.BertNormalizer(), pre_tokenizer=split.BertPreTokenizer())


def composed() -> Tokenizer:
    return _bpe(
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
        pre_tokenizer=split.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )


def spaced_marks() -> Tokenizer:
    """With tokens that were added by hand: rows of spaces, and one that eats the space beside."""
    tokenizer = gpt2()
    tokenizer.add_tokens(["  ", "   ", "cat's sat", AddedToken("mat", lstrip=True, rstrip=True)])
    return tokenizer


def looks_back() -> Tokenizer:
    return _split(r"(?<=the) cat| ?\p{L}+|\s+|[^\s\p{L}]+")


def phrases() -> Tokenizer:
    return _split(r"\p{L}+( \p{L}+)*|\s+|[^\s\p{L}]+")


def over_spaces() -> Tokenizer:
    """BPE without words, whose merges reach over spaces."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([page(6000, 9)], trainer)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = split.Metaspace(split=False)
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator(page(6000, 9).split(" "), trainer)
    return tokenizer


CUT: list[Callable[[], Tokenizer]] = [
    *(gpt2, gpt2_prefix, gpt4, deepseek, llama2, metaspace, metaspace_first, bert, composed),
    spaced_marks,
]
WHOLE: list[Callable[[], Tokenizer]] = [looks_back, phrases, over_spaces, unigram]


def fast(tokenizer: Tokenizer, *, begins: bool = False, ends: bool = True) -> Any:
    """As transformers has it; ``<s>`` begins a text if asked for, and ``</s>`` ends one."""
    marks = {"unk_token": "<unk>"} | ({"eos_token": "</s>"} if ends else {})
    if begins:
        pairs = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=pairs)
        marks["bos_token"] = "<s>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
