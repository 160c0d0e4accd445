"""Runs `steppe prune` in one forked process after another, and kills it where it is told to.

Python and its packages are imported once. Each line on standard input is a JSON object:
``arguments`` of the command line, ``watch`` a folder, ``kill`` how many operations on files in
that folder are let through (null: all), ``seconds`` after which the process is killed (null:
never). Each answer is one: ``code`` (-9 when killed), ``operations``, ``said``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
from typing import Any

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "shutil.copyfile"}


def child(order: dict[str, Any], pipe: int) -> None:
    """Run the command; never returns."""
    from steppe.cli.main import main

    count, folder, limit = 0, order["watch"], order["kill"]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in OPERATIONS and any(
            isinstance(a, str | os.PathLike) and os.fspath(a).startswith(folder)
            for a in arguments[:2]
        ):
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(hook)
    code = 70
    try:
        main(order["arguments"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    os.write(pipe, str(count).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(order: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait, kill when it is time."""
    ours, theirs = os.pipe()
    with tempfile.TemporaryFile() as said:
        process = os.fork()
        if not process:
            os.close(ours)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            child(order, theirs)
        os.close(theirs)
        # the pipe's other end closes with the process
        ready, _, _ = select.select([ours], [], [], order["seconds"])
        if not ready:
            os.kill(process, signal.SIGKILL)
        operations = os.read(ours, 100)
        _, status = os.waitpid(process, 0)
        os.close(ours)
        said.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "operations": int(operations) if operations else None,
            "said": said.read().decode(errors="replace")[-50_000:],
        }


if __name__ == "__main__":
    import transformers.models.llama.modeling_llama  # noqa: F401

    import steppe.cli.main
    import steppe.llm.prune

    steppe.cli.main.commands()
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
