"""Accuracy of an image model on new images of the same classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steppe.core.errors import SteppeError
from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.experiment.image_run import ImageRun
from steppe.robustness.shifted import accuracy_under_shift


@EVALUATIONS.register("shifted")
@dataclass(frozen=True, kw_only=True)
class Shifted(Evaluation):
    """Accuracy on images that were collected anew, as ImageNet-V2's three variants.

    Args:
        part: test, validation or train.
        shifted: a folder of new images (ImageNet-V2: class folders 0, 1, ...; or several such
            folders), or a dataset's id.
        limit: of the part's images at most; the new ones are all used.
    """

    part: str = "test"
    shifted: str | None = None
    limit: int | None = None

    def check(self) -> None:
        if self.shifted is None:
            raise SteppeError(
                "--on shifted needs new images", got="none", way_out="--shifted FOLDER_OR_ID"
            )

    def measure(self) -> dict[str, Any]:
        """The accuracy and R_V2 = acc_V2 / acc_val of each variant."""
        self.check()
        assert self.shifted is not None, "checked"
        run = ImageRun.read(self.run, self.device, "shifted")
        images = run.images(self.part, self.limit)
        return accuracy_under_shift(run.on_pixels, images, shifted=self.shifted, fit=run.fit)

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """Each variant's accuracy and R_V2."""
        own = ", ".join(
            f"{name} {share:.2%} (R_V2 {result['r_v2'][name]:.3f})"
            for name, share in result["variants"].items()
        )
        return f"accuracy on new images: {own}; on those of {self.part} {result['clean']:.2%}"
