"""The ``steppe latency`` that measures what a table lacks: the way out of its errors."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from steppe.core.errors import SteppeError

OTHER = "OTHER.json"
"""Stands for a new table, where the one that is named cannot hold what is measured."""


@dataclass(frozen=True, kw_only=True)
class LatencyCommand:
    """What is measured, as far as it is known.

    Args:
        network: a run's folder or a network's name.
        size: height and width of the images; None leaves them to the run.
        classes: their number, or a word for it; None leaves it to the run.
        batch: images of a forward pass.
        round_to: what widths are multiples of; None leaves it to ``steppe latency``.
        channels_last: in that memory format.
        device: where; the processor needs no saying.
    """

    network: str = "MODEL"
    size: int | None = None
    classes: int | str | None = None
    batch: int = 1
    round_to: int | None = None
    channels_last: bool = False
    device: str = "cpu"

    def to(self, out: Path | str = OTHER) -> str:
        """The command line that writes it to a file.

        Example:
            >>> LatencyCommand(network="ssd_small", size=128, classes=3).to("t.json")
            'steppe latency ssd_small --input-size 128 --classes 3 --batch 1 --out t.json'
        """
        words = ["steppe", "latency", self.network]
        given = {"input-size": self.size, "classes": self.classes, "batch": self.batch}
        for name, value in {**given, "round-to": self.round_to}.items():
            words += [] if value is None else [f"--{name}", str(value)]
        words += ["--device", self.device] if self.device != "cpu" else []
        words += ["--channels-last"] if self.channels_last else []
        return shlex.join([*words, "--out", str(out)])


UNKNOWN = LatencyCommand()
"""Of a network of which nothing is known."""


def no_table(command: LatencyCommand) -> SteppeError:
    """The error for a latency without a table.

    Args:
        command: that measures one.
    """
    return SteppeError(
        "a latency is read from a table",
        got="no table",
        way_out=f"{command.to('table.json')}, then --table table.json (channels.table)",
    )
