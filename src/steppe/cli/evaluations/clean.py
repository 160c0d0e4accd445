"""Accuracy and loss of an image model on its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steppe.cli.evaluations import EVALUATIONS, Evaluation
from steppe.cli.experiment import build_model, clean, load_data, read_run
from steppe.core.errors import SteppeError
from steppe.core.mask import count_zeros
from steppe.engine.batchnorm import reestimate
from steppe.vision.loader import Loader
from steppe.vision.models import load_weights, logits


@EVALUATIONS.register("clean")
@dataclass(frozen=True, kw_only=True)
class Clean(Evaluation):
    """Accuracy and mean cross entropy of a run's weights.

    Args:
        part: test, validation or train.
        reestimate_bn: batch-norm statistics anew before measuring.
    """

    part: str = "test"
    reestimate_bn: bool = False

    def measure(self) -> dict[str, Any]:
        """Accuracy, loss and zeros, batch norm as stored or re-estimated."""
        run, device = Path(self.run), self.device
        if (run / "config.json").exists() and not (run / "recipe.yaml").exists():
            raise SteppeError(
                "--on clean measures runs of steppe train",
                got=f"{run}, which holds a language model",
                way_out="--on perplexity --text FILE",
            )
        recipe = read_run(run)
        data = load_data(recipe)
        model = build_model(recipe, data)
        load_weights(model, self.run)
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise SteppeError(
                "the device must exist here",
                got=f"{device!r} ({str(error).splitlines()[0]})",
                way_out="--device cpu",
            ) from None
        if self.reestimate_bn:
            loader = Loader.of(
                data, "train", recipe.train.batch_size, seed=recipe.seed, device=device
            )
            stream = loader.epoch(recipe.train.epochs)
            limit = range(max(recipe.train.bn_batches, 1))
            reestimate(model, (x for (x, _), _ in zip(stream, limit, strict=False)), logits)
        model.eval()
        options: dict[str, Any] = {"shuffle": False, "augment": None, "drop_last": False}
        loader = Loader.of(data, self.part, 500, device=device, **options)
        zeros = count_zeros(dict(model.named_parameters()))
        held = {"part": self.part, "bn_reestimated": self.reestimate_bn, "zeros": zeros}
        return {**clean(model, loader), **held}

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """Accuracy and loss."""
        how = ", batch norm re-estimated" if self.reestimate_bn else ""
        return f"accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f} on {self.part}{how}"
