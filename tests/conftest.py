"""What every test starts from: no network, one seed, no leftovers of another test."""

import os
import tempfile
from pathlib import Path

# before any import of the hub's packages: a test never waits for a network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
# kernels are compiled once for all tests: their folder is named by all that decides them
os.environ.setdefault(
    "STEPPE_SPARSE_CACHE", str(Path(tempfile.gettempdir()) / f"steppe-tests-{os.getuid()}")
)

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    """Each test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch):
    """No test's precision depends on how fast this machine is: all works take a millisecond."""
    monkeypatch.setattr("steppe.engine.precision.turns", lambda works, **_: [[1.0] for _ in works])


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """Nothing is remembered from one test to the next, or in the folder of who runs them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def grouped():
    """The module `grouped.py` beside this file."""
    import grouped

    return grouped


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """41 JPEGs to train on and 12 to test on, about 60 x 48, in four classes."""
    from photographs import draw

    folder = tmp_path_factory.mktemp("photographs")
    draw(folder / "train", 41, 4, (60, 48), 0)
    draw(folder / "test", 12, 4, (60, 48), 1)
    return folder


BESIDE = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder of data and models beside the checkout."""
    if not BESIDE.is_dir():
        pytest.skip("the folder shared/ does not lie beside this checkout")
    return BESIDE


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """Folder of a random LLaMA (2 blocks, 12 wide, 64 positions) and a tokenizer of 26 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("language-model")
    words = {word: i for i, word in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxy"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"unk_token": "<unk>", "eos_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def word_text(tmp_path_factory):
    """A file of 500 words that `language_model` knows."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(
        " ".join("abcdefghijklmnopqrstuvwxy"[(i * i + i // 7) % 25] for i in range(500))
    )
    return path
