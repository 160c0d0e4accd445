"""The recipes that come with steppe: the papers' experiments, and small ones for two cores."""

from __future__ import annotations

from pathlib import Path

from steppe.core.errors import SteppeError, unknown
from steppe.core.text import read_yaml

FOLDER = Path(__file__).parent


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
    first = path_of(name).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def copy(name: str, to: Path) -> list[Path]:
    """Copy one recipe with those that it is based on, or a folder of them, for editing.

    Args:
        name: a recipe (``digits``), or a folder (``cifar10-small``).
        to: the folder that the copy goes into; it is made where there is none.

    Returns:
        The files written. Of a folder, they lie in a folder of that name.

    Raises:
        SteppeError: nothing is called so, a file is there already, or it cannot be written.

    Example:
        >>> import tempfile
        >>> [file.name for file in copy("digits", Path(tempfile.mkdtemp()))]
        ['digits.yaml']
    """
    inside = [one for one in names() if one.startswith(f"{name.rstrip('/')}/")]
    if inside:
        targets = {path_of(one): to / f"{one}.yaml" for one in inside}
    else:
        targets = {source: to / source.name for source in _with_bases(path_of(name))}
    for target in targets.values():
        if target.exists():
            raise SteppeError(
                "a copy of a recipe replaces no file", got=target, way_out="another --to"
            )
    try:
        for source, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise SteppeError(
            "the folder for a copy must be writable", got=f"{to} ({error.strerror})"
        ) from None
    return list(targets.values())


def _with_bases(path: Path) -> list[Path]:
    """A recipe and those it is based on: files of its own folder."""
    base = read_yaml(path.read_text(encoding="utf-8")).get("base")
    return [path] if base is None else [path, *_with_bases(path.parent / base)]
