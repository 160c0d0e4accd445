"""The recipes that come with steppe: the papers' experiments, and small ones for two cores."""

from __future__ import annotations

import os
from pathlib import Path

from steppe.core.errors import SteppeError, unknown
from steppe.core.text import read_yaml

FOLDER = Path(os.path.abspath(__file__)).parent


def names() -> list[str]:
    """The names of all recipes, such as ``cifar10-small/safe``, in alphabetical order.

    Example:
        >>> "digits" in names()
        True
    """
    files = FOLDER.rglob("*.yaml")
    return sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in files)


def path_of(name: str) -> Path:
    """The file of a recipe; its name may end in ``.yaml``.

    Args:
        name: one of `names`.

    Raises:
        SteppeError: no recipe is called so.

    Example:
        >>> path_of("digits").name
        'digits.yaml'
    """
    name = name.removesuffix(".yaml")
    if name not in names():
        raise unknown("recipe", name, names())
    return FOLDER / f"{name}.yaml"


def about(name: str) -> str:
    """What a recipe is, in one sentence: the first comment of its file.

    Example:
        >>> about("digits")[:22]
        'SAFE on the handwritte'
    """
    first = text(name).partition("\n")[0]
    return first.removeprefix("#").strip()


def text(name: str) -> str:
    """A recipe as it is written, with its comments.

    Example:
        >>> "lenet-300-100" in text("digits")
        True
    """
    return path_of(name).read_text(encoding="utf-8")


def copy(name: str, to: Path) -> list[Path]:
    """Copy one recipe with those that it is based on, or a folder of them, for editing.

    Args:
        name: a recipe (``digits``), or a folder (``cifar10-small``).
        to: the folder that the copy goes into; it is made where there is none.

    Returns:
        The files written; one that is there with the same text stays as it is. Of a folder, they
        lie in a folder of that name, and so does a recipe with a base in another folder.

    Raises:
        SteppeError: nothing is called so, a file with other text is there, or it cannot be written.

    Example:
        >>> import tempfile
        >>> [file.name for file in copy("digits", Path(tempfile.mkdtemp()))]
        ['digits.yaml']
    """
    inside = [one for one in names() if one.startswith(f"{name.rstrip('/')}/")]
    sources = [file for one in inside or [name] for file in _with_bases(path_of(one))]
    folders = {file.parent for file in sources}
    # as they lie here, where a base is in another folder: a recipe names it by its path
    root = FOLDER if inside or len(folders) > 1 else folders.pop()
    targets = {to / file.relative_to(root): file for file in sources}
    missing = {target: file for target, file in targets.items() if not _same(target, file)}
    try:
        for target, source in missing.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    except OSError as error:
        raise SteppeError(
            "the folder for a copy must be writable",
            got=f"{to} ({error.strerror})",
            way_out="another --to",
        ) from None
    return list(missing)


def _same(target: Path, source: Path) -> bool:
    """Whether a copy is there already.

    Raises:
        SteppeError: something else is.
    """
    if not (target.exists() or target.is_symlink()):
        return False
    if target.is_file() and target.read_bytes() == source.read_bytes():
        return True
    raise SteppeError(
        "a copy of a recipe replaces no file",
        got=f"{target}, which is there with other text",
        consequence="nothing was copied",
        way_out="another folder: --to DIR",
    )


def _with_bases(path: Path) -> list[Path]:
    """A recipe and those it is based on."""
    base = read_yaml(path.read_text(encoding="utf-8")).get("base")
    if base is None:
        return [path]
    # links stay, by which the package may be reached
    return [path, *_with_bases(Path(os.path.normpath(path.parent / base)))]
