"""The C files under sanitizers, and NEON's on an emulated processor: see driver.c."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from steppe.sparse.native.compiler import SOURCES, compiler, objects
from steppe.sparse.native.interface import Unusable

DRIVER = Path(__file__).with_name("driver.c")
SANITIZED = ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
ABSENT = 3  # what driver.c returns for an instruction set that does not work here


def linked(chosen, into, flags, *more):
    """The driver with all kernels; (program, instruction sets that are in)."""
    into.mkdir()
    parts = objects(chosen, into, more=flags)
    program = into / "driver"
    files = [str(DRIVER), *map(str, parts.objects)]
    command = [*chosen.command, *flags, *more, f"-I{SOURCES}", *files, "-o", str(program), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program, parts.instruction_sets


def run(command, **environment):
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.fixture(scope="session")
def cc():
    try:
        return compiler()
    except Unusable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def leaks(cc, tmp_path_factory):
    """ASAN_OPTIONS of a program that does nothing and ends well with them."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.c").write_text("int main(void) { return 0; }\n")
    command = [*cc.command, *SANITIZED, str(folder / "probe.c"), "-o", str(folder / "probe")]
    if run(command).returncode:
        pytest.skip("the compiler has no sanitizers")
    for options in ("detect_leaks=1", "detect_leaks=0"):  # leaks cannot be seen under ptrace
        if run([str(folder / "probe")], ASAN_OPTIONS=options).returncode == 0:
            return options
    pytest.skip("a sanitized program does not run here")


def test_sanitizers_find_nothing(cc, leaks, tmp_path):
    program, names = linked(cc, tmp_path / "built", SANITIZED)
    worked = []
    for name in names:
        done = run([str(program), name, "1", "60"], ASAN_OPTIONS=leaks)
        assert done.returncode in (0, ABSENT), f"{name}: {done.stderr}"
        if done.returncode == 0:
            assert done.stdout == "60 cases\n"
            worked.append(name)
    assert "portable" in worked


def test_neon_on_an_emulated_processor(tmp_path):
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    try:
        chosen = compiler({**os.environ, "STEPPE_SPARSE_CC": "aarch64-linux-gnu-gcc"})
    except Unusable as error:
        pytest.skip(str(error))
    if emulator is None:
        pytest.skip("no qemu-aarch64")
    program, names = linked(chosen, tmp_path / "built", ["-O2"], "-static")
    assert names == ["neon", "portable"]
    for name in names:
        done = run([emulator, str(program), name, "1", "60"])
        assert done.returncode == 0, done.stderr
        assert done.stdout == "60 cases\n"
