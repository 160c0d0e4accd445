"""A tokenizer goes into GGUF as llama.cpp reads it, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.llm.gguf_tokenizer import Vocabulary, read_vocabulary

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'steppe[gguf]'")
tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["the cat sat on the mat", "the hat that the cat had", "a cat, a hat, a mat!"]
SPECIAL = ["<unk>", "<s>", "</s>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def trained(folder: Path, cuts: Any) -> tuple[Any, int]:
    """A tokenizer of bytes that cuts text so, in a model's folder; and how many tokens it has."""
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = cuts
    own.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        TEXTS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return saved(folder, own), own.get_vocab_size()


def saved(folder: Path, own: Any) -> Any:
    folder.mkdir(exist_ok=True)
    own.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return own


def pieces(folder: Path, merges: list[tuple[str, str]] | None = None) -> tuple[Any, int]:
    """A tokenizer as SentencePiece makes them: characters, merges, bytes for what is unknown."""
    merges = merges or [("a", "t"), ("h", "at"), ("ha", "t"), ("\u2581", "hat"), ("h", "a")]
    merges = sorted(merges, key=lambda pair: ["at", "ha", "hat", "\u2581hat"].index("".join(pair)))
    tokens = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), "\u2581", "h", "a", "t"]
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = tokenizers.models.BPE(
        vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    own = tokenizers.Tokenizer(model)
    own.add_special_tokens(SPECIAL)
    own.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.Prepend("\u2581"),
            tokenizers.normalizers.Replace(" ", "\u2581"),
        ]
    )
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return saved(folder, own), len(tokens)


def byte_level(**options: Any) -> Any:
    return tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def split_by(pattern: str) -> Any:
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return tokenizers.pre_tokenizers.Sequence([split, byte_level(use_regex=False)])


@pytest.mark.parametrize(
    ("cuts", "name"),
    [
        (byte_level(), "gpt-2"),
        (split_by(LLAMA3), "smaug-bpe"),
        (split_by(LLAMA3.replace("{1,3}", "")), "qwen2"),
        (
            tokenizers.pre_tokenizers.Sequence(
                [tokenizers.pre_tokenizers.Digits(individual_digits=True), byte_level()]
            ),
            "smollm",
        ),
    ],
    ids=["gpt-2", "smaug-bpe", "qwen2", "smollm"],
)
def test_merges_of_bytes(tmp_path: Path, cuts: Any, name: str) -> None:
    own, size = trained(tmp_path, cuts)
    carried = read_vocabulary(gguf, tmp_path, size + 3)
    assert (carried.model, carried.pre) == ("gpt2", name)
    assert carried.tokens[:size] == [own.id_to_token(i) for i in range(size)]
    assert carried.tokens[size:] == [f"[PAD{size + i}]" for i in range(3)]
    control, normal, unused = (gguf.TokenType[n] for n in ("CONTROL", "NORMAL", "UNUSED"))
    assert carried.types == [control] * 3 + [normal] * (size - 3) + [unused] * 3
    assert carried.special.special_token_ids == {"bos": 1, "eos": 2, "unk": 0}
    assert carried.special.merges
    assert carried.switches == {"add_bos_token": False, "add_eos_token": False}


def test_whole_words_first_has_a_name_of_its_own(tmp_path: Path) -> None:
    _, size = trained(tmp_path, split_by(LLAMA3))
    change(tmp_path, lambda stored: stored["model"].update(ignore_merges=True))
    assert read_vocabulary(gguf, tmp_path, size).pre == "llama-bpe"


def change(folder: Path, edit: Any) -> None:
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    edit(stored)
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.update(pre_tokenizer={"type": "Whitespace"}), "no name there"),
        (lambda s: s["pre_tokenizer"].update(add_prefix_space=True), "no name there"),
        (lambda s: s.update(normalizer={"type": "Lowercase"}), "the normalizer Lowercase"),
        (lambda s: s["model"].update(ignore_merges=True), "no name there"),
        (lambda s: s["model"].update(dropout=0.1), "dropout"),
        (lambda s: s["model"].update(type="Unigram"), "a Unigram model"),
    ],
)
def test_what_llama_cpp_would_cut_otherwise_is_refused(
    tmp_path: Path, edit: Any, said: str
) -> None:
    _, size = trained(tmp_path, byte_level())
    change(tmp_path, edit)
    with pytest.raises(SteppeError, match=rf"{said}.*--tokenizer none"):
        read_vocabulary(gguf, tmp_path, size)


def test_no_tokenizer_and_too_many_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match=r"no tokenizer\.json"):
        read_vocabulary(gguf, tmp_path, 8)
    _, size = trained(tmp_path, byte_level())
    with pytest.raises(SteppeError, match="2 tokens that the embedding has no row for"):
        read_vocabulary(gguf, tmp_path, size - 2)


def test_composed_letters_are_named(tmp_path: Path) -> None:
    _, size = trained(tmp_path, byte_level())
    change(tmp_path, lambda stored: stored.update(normalizer={"type": "NFC"}))
    assert "NFC" in read_vocabulary(gguf, tmp_path, size).notes[0]


def test_sentencepiece_gets_scores_in_the_order_of_its_merges(tmp_path: Path) -> None:
    _, size = pieces(tmp_path)
    carried = read_vocabulary(gguf, tmp_path, size)
    assert (carried.model, carried.pre) == ("llama", "default")
    score = dict(zip(carried.tokens, carried.scores, strict=True))
    assert score["at"] > score["ha"] > score["hat"] > score["\u2581hat"]
    kinds = gguf.TokenType
    assert carried.types[:4] == [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, kinds.BYTE]
    assert carried.switches == {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": True,
    }


def test_merges_that_scores_cannot_say_are_refused(tmp_path: Path) -> None:
    """Without ha + t, llama.cpp would still make hat of ha and t."""
    _, size = pieces(tmp_path, [("a", "t"), ("h", "a"), ("h", "at")])
    with pytest.raises(SteppeError, match="merges that no scores"):
        read_vocabulary(gguf, tmp_path, size)


def test_none_says_so(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    Vocabulary().write(writer)
    keys = {key for part in writer.kv_data for key in part}
    assert "tokenizer.ggml.model" in keys
    assert "tokenizer.ggml.tokens" not in keys


@pytest.mark.parametrize("make", ["bytes", "pieces"])
def test_llama_cpp_reads_the_same_tokens(tmp_path: Path, make: str) -> None:
    peer = pytest.importorskip(
        "llamacpp_peer", reason="llama_cpp is not installed", exc_type=ImportError
    )
    transformers = pytest.importorskip("transformers")
    from steppe.llm.gguf import checkpoint, write

    cuts = byte_level()
    own, size = trained(tmp_path, cuts) if make == "bytes" else pieces(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    path = tmp_path / "model.gguf"
    write(path, checkpoint(tmp_path), config, read_vocabulary(gguf, tmp_path, size))
    with peer.Model(path, threads=1, context=64) as model:
        for text in [*TEXTS, "hat hat  that", "12 hats: \u00e9\u4e16\n\n ok", "tattat"]:
            assert model.tokenize(text) == own.encode(text).ids
