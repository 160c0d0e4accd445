"""Which compiler is taken, and what it cannot compile."""

import pytest

from steppe.sparse.native import compiler as compilers
from steppe.sparse.native.compiler import SOURCES, compiler, machine_of, objects, processor
from steppe.sparse.native.interface import Unusable


@pytest.fixture
def cc():
    try:
        return compiler()
    except Unusable as error:
        pytest.skip(str(error))


def script(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def answering(path, name="fake 1.0", target="x86_64-linux-gnu"):
    return script(
        path, f'case "$*" in *--version) echo {name};; *-dumpmachine) echo {target};; esac'
    )


def test_the_order(tmp_path):
    for name in ("cc", "gcc", "mine"):
        answering(tmp_path / name, name)
    path = str(tmp_path)
    assert compiler({"PATH": path}).version == "cc"
    assert compiler({"PATH": path, "CC": "mine"}).version == "mine"
    assert compiler({"PATH": path, "CC": "mine", "STEPPE_SPARSE_CC": "gcc -m64"}).command == (
        str(tmp_path / "gcc"),
        "-m64",
    )


def test_one_that_does_not_answer_is_passed_over(tmp_path):
    script(tmp_path / "cc", "exit 1")
    script(tmp_path / "gcc", "exit 0")
    answering(tmp_path / "clang", "clang 17", "arm64-apple-darwin")
    assert compiler({"PATH": str(tmp_path), "CC": "not-there"}).version == "clang 17"
    assert compiler({"PATH": str(tmp_path)}).machine == "arm64"


@pytest.mark.parametrize(
    ("environment", "tried"),
    [
        ({}, "cc, gcc, clang"),
        ({"CC": "icc"}, "icc, cc, gcc, clang"),
        ({"STEPPE_SPARSE_CC": "tcc -O2"}, "STEPPE_SPARSE_CC=tcc -O2"),
        ({"STEPPE_SPARSE_CC": "'"}, "STEPPE_SPARSE_CC='"),
    ],
)
def test_none_says_what_was_tried(tmp_path, environment, tried):
    with pytest.raises(
        Unusable, match=r"install gcc or clang, or name one in STEPPE_SPARSE_CC"
    ) as e:
        compiler({"PATH": str(tmp_path), **environment})
    assert f"(tried {tried})" in str(e.value)


def test_machines_have_one_name():
    assert [machine_of(name) for name in ("x86_64", "AMD64", "aarch64", "arm64", "riscv64")] == [
        "x86-64",
        "x86-64",
        "arm64",
        "arm64",
        "riscv64",
    ]


def test_every_kernel_file_has_its_flags():
    names = {file.stem.removeprefix("kernels_") for file in SOURCES.glob("kernels_*.c")}
    assert names == set(compilers.INSTRUCTION_SETS)
    assert not [f for s in compilers.INSTRUCTION_SETS.values() for f in s.flags if "fast" in f]


@pytest.fixture
def sources(tmp_path):
    """Small files in place of the kernels, that tell what they were compiled with."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in compilers.INSTRUCTION_SETS:
        (folder / f"kernels_{name}.c").write_text(f"int {name}_kernels;\n")
    (folder / "calls.c").write_text(
        "#if defined SPS_WITH_AVX2 && !defined SPS_WITH_PORTABLE\n#error told wrongly\n#endif\n"
        "int calls;\n"
    )
    return folder


def test_what_is_of_another_machine_or_too_new_is_left_out(sources, tmp_path, cc):
    old = script(
        tmp_path / "old-cc",
        'case "$*" in *-mavx512vbmi2*) echo "cc: error: unrecognized option" >&2; exit 1;; esac\n'
        f'exec {" ".join(cc.command)} "$@"',
    )
    into = tmp_path / "into"
    into.mkdir()
    parts = objects(compilers.Compiler((str(old),), "old", "x86-64"), into, sources=sources)
    if cc.machine == "x86-64":
        assert sorted(parts.instruction_sets) == ["avx2", "avx512", "portable"]
        assert "unrecognized option" in parts.left_out["avx512vbmi2"]
    assert parts.left_out["neon"] == "is of arm64"
    assert "portable" in parts.instruction_sets
    assert {o.name for o in parts.objects} >= {"calls.o", "kernels_portable.o"}


def test_a_fault_in_what_is_always_needed_ends_it(sources, tmp_path, cc):
    (sources / "kernels_portable.c").write_text("int f(void) { return missing; }\n")
    with pytest.raises(Unusable, match=r"kernels_portable.c:1:.*missing"):
        objects(cc, tmp_path, sources=sources)


def test_a_processor_is_what_it_can_do(tmp_path):
    def told(flags, mhz="1", cores=2):
        file = tmp_path / f"{flags}{mhz}{cores}"
        lines = f"processor\t: 0\nmodel name\t: A\ncpu MHz\t: {mhz}\nflags\t: {flags}\n\n"
        file.write_text(lines * cores)
        return processor(file)

    assert told("avx2") == told("avx2", mhz="2") == told("avx2", cores=4)
    assert told("avx2") != told("avx2 avx512f"), "the same name, less told by its host"
    assert processor(tmp_path / "none")
