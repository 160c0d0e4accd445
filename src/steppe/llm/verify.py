"""A compact folder beside its run, in a process of its own: ``python -m steppe.llm.verify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.llm.architecture import class_in
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.compact import BITS, load_compact, read_shard, shards
from steppe.llm.perplexity import positions_of
from steppe.llm.stream import answer


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit; NaN and -0.0 count as they are.

    Example:
        >>> same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
        False
    """
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype == torch.bool:
        return torch.equal(a, b)
    kind = BITS[a.element_size()]
    return torch.equal(a.contiguous().view(-1).view(kind), b.contiguous().view(-1).view(kind))


def same_tensors(run: Path, out: Path) -> int:
    """Compare shard by shard; the number of tensors.

    Raises:
        AssertionError: one differs, is missing or is new.
    """
    source = Checkpoint(run)
    missing = set(source.files)
    for shard in shards(out):
        for name, tensor in read_shard(shard).items():
            assert name in missing, f"{name} is new or twice there"
            assert same_bits(tensor, source.read([name])[name]), f"{name} differs"
            missing.remove(name)
    assert not missing, f"{min(missing)} is missing"
    return len(source.files)


@torch.no_grad()
def _logits(model: nn.Module) -> Tensor:
    config: Any = model.config
    config = config.get_text_config()
    length = min(16, positions_of(model) or 16)
    tokens = torch.arange(2 * length).reshape(2, length) * 7919 % config.vocab_size
    decoder = {"decoder_input_ids": tokens} if config.is_encoder_decoder else {}
    return answer(model.eval()(input_ids=tokens, **decoder))


def same_logits(run: Path, out: Path) -> bool:
    """Whether the two models, one loaded after the other, answer bit for bit the same."""
    before = _logits(class_in(run).from_pretrained(run))
    return same_bits(before, _logits(load_compact(out)))


def main(run: str, out: str, what: str) -> None:
    """Print one JSON object; end with an error when something differs."""
    agreement: dict[str, Any] = {"tensors": same_tensors(Path(run), Path(out)), "logits": None}
    if what == "logits":
        agreement["logits"] = same_logits(Path(run), Path(out))
        assert agreement["logits"], "the logits differ"
    print(json.dumps(agreement))


if __name__ == "__main__":
    main(*sys.argv[1:])
