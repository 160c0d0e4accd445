"""The command line: verbs are found in this folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import json
import os
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

import steppe
import steppe.cli as package
from steppe.core.errors import SteppeError
from steppe.core.notes import Note
from steppe.engine import ranks

app = typer.Typer(
    name="steppe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
STOPPED = "steppe: stopped; what was written, if anything was, is whole"
GOES_ON = ", and the same command goes on from it"
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")  # in torch's errors
_ELSE = ("files and folders must be usable", "check the paths and numbers given")
_FULL = (
    "folders that are written must be writable and have space",
    "free some space or choose another --out",
)
_DENIED = ("files and folders must be yours to use", "change their rights or choose other ones")
_MACHINE: dict[int | None, tuple[str, str]] = {
    errno.EROFS: _FULL,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
}
"""What the system's errors mean, and what helps."""
_INTERRUPTED = 130
"""What shells expect of a command that Ctrl-C ends; click's word for it, too."""
_err = Console(stderr=True, soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"steppe {steppe.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print it")
    ] = False,
) -> None:
    """Neural networks that are sparse and flat."""


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def of_all_parameters(record: dict[str, Any]) -> str:
    """What the zeros are of the whole model, of which a part is never pruned; for one line.

    Example:
        >>> of_all_parameters({"sparsity_of_all": 0.021})
        ' (2.10% of all parameters)'
    """
    share = record.get("sparsity_of_all")
    return "" if share is None else f" ({share:.2%} of all parameters)"


def say(text: str, quiet: bool = False) -> None:
    """A line for people, on standard error; under several processes the first speaks."""
    if not quiet and _first():
        _err.print(text, highlight=False, markup=False)


def complain(text: str) -> None:
    """An error; of several processes the first that fails tells of it."""
    if ranks.speaks() if ranks.world() > 1 else _first():
        _err.print(text, highlight=False, markup=False)


def emit(result: dict[str, Any], as_json: bool) -> None:
    """The one JSON object on standard output, when asked for."""
    if as_json and _first():
        print(json.dumps(result))


@functools.cache
def _load_verbs() -> None:
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("verb_"):
            importlib.import_module(f"steppe.cli.{module.name}").add(app)


@functools.cache
def commands() -> Any:
    """All verbs as one click command; made once in a process, since every signature is read."""
    _load_verbs()
    return typer.main.get_command(app)


def _set_instead(error: Any) -> str:
    """How ``--set`` says what is no flag of a command: an option of methods, a key of a recipe."""
    from steppe.cli.training import places_called
    from steppe.methods import METHODS

    key = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    owners = [name for name in METHODS if key in METHODS[name].options]
    parameters = getattr(getattr(getattr(error, "ctx", None), "command", None), "params", ())
    if not any("--set" in parameter.opts for parameter in parameters):
        return ""
    said = [f"an option of {', '.join(owners)}: --set method.{key}=VALUE"] if owners else []
    if any(parameter.name == "recipe" for parameter in parameters):  # any key can be set
        places = [place for place in places_called(key) if not place.startswith("method.")]
        said += [f"a key of recipes: --set {place}=VALUE" for place in places]
    return "; ".join(said)


def _typed_instead(error: Any) -> str:
    """What to type instead of what is refused: a list in one word, or the command's help."""
    context: Any = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    lists = [p.opts[0] for p in getattr(command, "params", ()) if _is_list(p)]
    extra = lists and "unexpected extra argument" in error.format_message()
    commas = f"lists have commas and no spaces: {lists[0]} A,B; " if extra else ""
    named = [context.info_name] if getattr(context, "parent", None) is not None else []
    return f"{commas}see {' '.join(['steppe', *named, '--help'])}"


def _is_list(parameter: Any) -> bool:
    return "comma-separated" in (getattr(parameter, "help", None) or "")


def _stopped(arguments: list[str] | None) -> str:
    """What Ctrl-C leaves: whether the command says of itself that it goes on."""
    words = sys.argv[1:] if arguments is None else arguments
    verb = commands().commands.get(next(iter(words), ""))
    said = [] if verb is None else [verb.help, *(getattr(p, "help", "") for p in verb.params)]
    return STOPPED + (GOES_ON if any("goes on" in text for text in said if text) else "")


@contextlib.contextmanager
def _warnings_as_notes(quiet: bool) -> Iterator[None]:
    """What steppe's functions warn of is a note here, each once: no line of code beside it."""
    said: set[str] = set()
    with warnings.catch_warnings():
        plain = warnings.showwarning

        def show(message: Any, category: type[Warning], filename: str, *more: Any) -> None:
            if not issubclass(category, Note):
                plain(message, category, filename, *more)
            elif str(message) not in said:
                said.add(str(message))
                say(f"note: {message}", quiet)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _run(arguments: list[str] | None) -> int:
    """Run a command; 0, 2 when the input is wrong, 130 after Ctrl-C, 1 for anything else."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with _warnings_as_notes("--quiet" in given):
            code = commands()(arguments, standalone_mode=False)
    except SteppeError as error:
        complain(f"steppe: {error}")
        return 2
    except typer._click.exceptions.ClickException as error:
        say(f"steppe: {error.format_message()} ({_set_instead(error) or _typed_instead(error)})")
        return 2
    except (typer.Abort, KeyboardInterrupt):
        say(_stopped(arguments))
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError, RuntimeError) as error:  # of the machine, whatever the command
        memory = isinstance(error, MemoryError) or any(
            words in str(error).lower() for words in _OUT_OF_MEMORY
        )
        if isinstance(error, RuntimeError) and not memory:
            raise
        got = " ".join(str(error).split())[:300] or type(error).__name__
        rule, way_out = _MACHINE.get(getattr(error, "errno", None), _ELSE)
        rule = "the memory must suffice" if memory else rule
        complain(f"steppe: {rule}; got {got}. Way out: {way_out}")
        return 2
    if code == _INTERRUPTED:
        say(_stopped(arguments))
        return _INTERRUPTED
    return code if isinstance(code, int) else 0


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command; exit with 0, 2 when the input is wrong, 130 after Ctrl-C, 1 for anything else.

    Args:
        arguments: if None, those of the process, which ends with the command.
    """
    code = _run(arguments)
    if arguments is None:
        ranks.leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
