"""What a language model's folder is worth as it lies, in a line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from steppe.cli.main import say


def say_gain(record: dict[str, Any], out: Path, quiet: bool) -> None:
    """Say what is gone; of zeros, if any, that nothing is gained yet, and by which commands it is.

    The record has the sentence.

    Args:
        record: of the run.
        out: its folder.
        quiet: say nothing.
    """
    if "removed" in record:
        say(record["gain"], quiet)
    elif "gain" in record and record["sparsity_reached"]:
        here = shlex.quote(str(out))
        say(
            f"no gain in size or speed yet: steppe export {here} --to compact; steppe bench {here}",
            quiet,
        )
