"""The structures are those of the header, and a library that multiplies wrongly is not used."""

import ctypes
import re
import subprocess

import pytest

from steppe.sparse.native import interface
from steppe.sparse.native.compiler import SOURCES, compiler
from steppe.sparse.native.interface import Unusable, load
from steppe.sparse.native.library import library, why_not

HEADER = (SOURCES / "steppe_sparse.h").read_text()
STRUCTURES = {
    "sps_bits": interface.BitsArguments,
    "sps_index": interface.IndexArguments,
    "sps_call": interface.Call,
    "sps_source": interface.Source,
}


@pytest.fixture
def path():
    kernels = library()
    if kernels is None:
        pytest.skip(why_not())
    return kernels.functions._name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPS_ABI", interface.ABI),
        ("SPS_PADDING", interface.PADDING),
        ("SPS_ROWS", interface.ROWS),
        ("SPS_CHUNK", interface.CHUNK),
        ("SPS_TILE", interface.TILE),
    ],
)
def test_constants(name, value):
    assert int(re.search(rf"#define {name} (\d+)", HEADER)[1]) == value


def test_every_function_has_its_types():
    declared = re.findall(r"^(?:int32_t|const char \*|void) ?(sps_\w+)\(", HEADER, re.MULTILINE)
    assert sorted(declared) == sorted(interface.PROTOTYPES)


def test_structures_lie_as_the_compiler_lays_them(tmp_path):
    fields = [(s, t, f) for s, t in STRUCTURES.items() for f, _ in t._fields_]
    lines = [f'printf("%zu ", offsetof({s}, {f}));' for s, _, f in fields]
    lines += [f'printf("%zu ", sizeof({s}));' for s in STRUCTURES]
    file = tmp_path / "layout.c"
    body = "\n".join(lines)
    file.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <steppe_sparse.h>\n"
        f"int main(void) {{\n{body}\nreturn 0; }}\n"
    )
    try:
        command = compiler().command
    except Unusable as error:
        pytest.skip(str(error))
    program = tmp_path / "layout"
    subprocess.run([*command, f"-I{SOURCES}", str(file), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    ours = [getattr(t, f).offset for _, t, f in fields]
    ours += [ctypes.sizeof(t) for t in STRUCTURES.values()]
    assert [int(number) for number in done.stdout.split()] == ours


def test_what_is_no_library_is_refused(tmp_path):
    (tmp_path / "a.so").write_text("no library")
    with pytest.raises(Unusable, match="no library of kernels for this machine"):
        load(tmp_path / "a.so")


def test_a_wrong_product_is_seen(path, monkeypatch):
    assert load(path).sps_abi() == interface.ABI
    monkeypatch.setattr(interface, "_Y", [number + 1 for number in interface._Y])
    with pytest.raises(Unusable, match="multiplies wrongly with"):
        load(path)


def test_another_interface_is_refused(path, monkeypatch):
    monkeypatch.setattr(interface, "ABI", 1000)
    with pytest.raises(Unusable, match="has interface 1, this version of steppe needs 1000"):
        load(path)
