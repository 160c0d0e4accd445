"""Which split a file or a folder is of, by its name."""

from __future__ import annotations

import re

from steppe.core.errors import SteppeError

TEST_NAMES = ("test", "validation", "valid", "val")
"""What the split to test on is called; the first that is there is taken."""
SPLITS = ("train", *TEST_NAMES)
_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(SPLITS)})+(?![a-z])")
_SPLIT = re.compile("|".join(SPLITS))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is another program's: a notebook's copies, an archive's marks.

    Example:
        >>> is_hidden(".ipynb_checkpoints"), is_hidden("__MACOSX"), is_hidden("cats")
        (True, True, False)
    """
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def split_of(name: str, path: object = "") -> str:
    """The split that a name begins with; "" where it begins with none.

    Args:
        name: of a file or a folder.
        path: where it lies, for an error message.

    Raises:
        SteppeError: it says several splits.

    Example:
        >>> split_of("train-000.tar"), split_of("validation"), split_of("latest.tar")
        ('train', 'validation', '')
    """
    found = next((split for split in SPLITS if name.startswith(split)), "")
    said = {split for word in _WORD.findall(name) for split in _SPLIT.findall(word)}
    if found and said - {found}:
        raise SteppeError(
            "a name must say one split",
            got=f"{name}, which says {', '.join(s for s in SPLITS if s in said)}"
            + (f", in {path}" if path else ""),
            consequence="images to test on may be trained on",
            way_out="one file or folder for each, such as train-000 and test-000",
        )
    return found
