"""Perplexity of a language model on a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.llm.load import load
from steppe.llm.perplexity import perplexity, positions_of

USUAL_WINDOW = 2048


@EVALUATIONS.register("perplexity")
@dataclass(frozen=True, kw_only=True)
class Perplexity(Evaluation):
    """exp of the mean negative log-likelihood of each next token.

    Args:
        text: a file, a folder, wikitext2, c4, or another dataset's id.
        window: tokens the model sees at once; 2048, or the model's positions if they are fewer.
        stride: from one window's start to the next; the window, if none is given.
        dtype: float32, float16 or bfloat16; as stored (on a CPU float32), if none is given.
        batch: sequences in one forward pass.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    text: str | None = None
    window: int | None = None
    stride: int | None = None
    dtype: str | None = None
    batch: int = 8

    def check(self) -> None:
        if self.text is None:
            raise SteppeError(
                "--on perplexity needs a text", got="none", way_out="--text FILE or wikitext2"
            )

    def measure(self) -> dict[str, Any]:
        """Load the model and measure it."""
        self.check()
        assert self.text is not None, "checked"
        model, tokenizer = load(self.run, device=self.device, dtype=self.dtype)
        return perplexity(
            model,
            self.text,
            tokenizer=tokenizer,
            window=self.window or min(USUAL_WINDOW, positions_of(model) or USUAL_WINDOW),
            stride=self.stride,
            batch=self.batch,
        )

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """Perplexity, the dense model's beside it where the record holds the same measurement."""
        dense = _same(record, result)
        beside = f" (dense {dense['perplexity']:.2f})" if dense else ""
        steps = f", stride {result['stride']}" if result["stride"] != result["window"] else ""
        return (
            f"perplexity {result['perplexity']:.2f}{beside} on {result['source']}: "
            f"{counted(result['tokens'], 'token')} predicted in windows of "
            f"{result['window']}{steps}, "
            f"{result['dtype']}, {result['seconds']:.1f} s"
        )


def _same(record: dict[str, Any], result: dict[str, Any]) -> dict[str, Any] | None:
    """What the record holds of the dense model on the same ids in the same windows."""
    dense = record.get("dense")
    texts = dense.get("texts") if isinstance(dense, dict) else None
    for text in texts.values() if isinstance(texts, dict) else ():
        if all(text.get(key) == result[key] for key in ("sha256", "window", "stride")):
            return dict(text)
    return None
