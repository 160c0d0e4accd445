"""Runs commands of steppe in one forked process after another, and kills them where it is told to.

Python and its packages are imported once. `Nursery` is the side of the test. As a program, with the
modules to import first as arguments: each line on standard input is a JSON object, ``arguments`` of
the command line, ``watch`` a folder, ``kill`` how many operations on files in that folder are let
through (null: all), ``seconds`` after which the process is killed (null: never), counted from its
start, or from the operation ``kill`` where both are given. Each answer is one: ``code`` (-9 when
killed), ``operations``, ``said``.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

KILLED = -9
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "shutil.copyfile"}


class Nursery:
    """The process that forks; a context manager."""

    def __init__(self, *modules: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"),
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(
        self,
        arguments: list[str],
        watch: Path,
        kill: int | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """One command, see above."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"arguments": arguments, "watch": str(watch), "kill": kill, "seconds": seconds}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


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
            if count == limit and order["seconds"] is None:
                die()
            if count == limit:
                threading.Timer(order["seconds"], die).start()
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
        patience = order["seconds"] if order["kill"] is None else None
        ready, _, _ = select.select([ours], [], [], patience)
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
    for module in ("steppe.cli.main", *sys.argv[1:]):
        importlib.import_module(module)
    sys.modules["steppe.cli.main"].commands()
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
