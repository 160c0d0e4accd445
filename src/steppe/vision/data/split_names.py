"""Which split a file or a folder is of, by its name."""

from __future__ import annotations

import re

from steppe.core.errors import SteppeError

TEST_NAMES = ("test", "validation", "valid", "val")
"""What the split to test on is called; the first that is there is taken."""
SPLITS = ("train", *TEST_NAMES)
_ANY = "|".join(SPLITS)
_WORD = re.compile(rf"(?<![a-z])(?:{_ANY})+(?:ing|set|s)?(?![a-z])\d*")
_SPLIT = re.compile(_ANY)
_AND = re.compile(r"(?:(?<![a-z])and|[+&])[^a-z0-9]*$")
"""What ends in a word or sign for "and"."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is another program's: a notebook's copies, an archive's marks.

    Example:
        >>> is_hidden(".ipynb_checkpoints"), is_hidden("__MACOSX"), is_hidden("cats")
        (True, True, False)
    """
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def split_of(name: str, path: object = "") -> str:
    """The split that a name begins with; "" where it begins with none.

    It says several where the name of another one is joined to that: by nothing (``trainval``), by
    signs alone (``train_test``), or where it follows a word or sign for "and"
    (``train_and_test``, ``train+val``). Behind other words it is none: the images of
    ``train-256-valid-images`` are to train on.

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
    said = _joined(name)
    if found and said - {found}:
        raise SteppeError(
            "a name must say one split",
            got=f"{name}, which says {', '.join(s for s in SPLITS if s in said)}"
            + (f", in {path}" if path else ""),
            consequence="images to test on may be trained on",
            way_out="one file or folder for each, such as train-000 and test-000",
        )
    return found


def _joined(name: str) -> set[str]:
    """The splits that a name says from its first one on, as far as each is joined to the last."""
    said: set[str] = set()
    end = 0
    for word in _WORD.finditer(name):
        between = name[end : word.start()]
        if said and any(map(str.isalnum, between)) and not _AND.search(between):
            break
        said.update(_SPLIT.findall(word.group()))
        end = word.end()
    return said
