"""The rules of the tests themselves: where a test lies, and that it asserts something."""

import ast
from pathlib import Path

import pytest

from looped import looped

TESTS = Path(__file__).resolve().parent
SRC = TESTS.parent / "src" / "steppe"

# Tests without a source file of the same name: they are about more than one file.
CROSS = {
    "test_imports.py": "the direction of imports",
    "test_layout.py": "lengths and docstrings",
    "test_suite.py": "this file",
    "test_docs.py": "README and docs",
    "llm/test_recover_cut.py": "recovery of what removal left",
    "cli/test_every_verb_on_a_detector.py": "each verb on a detector that was trained",
    "test_results_page.py": "the figures of README and docs beside the records",
    "test_outside.py": "parts of another package",
    "test_former_names.py": "names of before 0.1",
    "test_benchmarks.py": "where the scripts of benchmarks write, how they end",
    "test_gpu_command.py": "make gpu, by stages of the test",
    "cuda": "what must hold on a GPU",
    "test_types.py": "the code of README and docs, as type checkers see it",
    "contract": "what every part of an axis fulfils, from the registries",
    "parity": "whole methods beside plain transcriptions of their rules",
    "end_to_end": "commands, run as a user runs them",
    "callbacks/test_ddp.py": "both trainers in two processes",
    "experiment/test_imagenet_recipes.py": "the recipes of ImageNet, shortened",
    "experiment/test_streamed_ranks.py": "images that are streamed by two processes",
    "experiment/test_streamed_run.py": "a run on streamed images, killed and measured",
    "vision/augment/test_mixing.py": "mixup and cutmix",
    "vision/augment/test_single_images.py": "every augmentation of single images",
    "vision/streaming/test_memory.py": "memory while images are streamed",
    "vision/streaming/test_spawned_workers.py": "workers that share nothing with their process",
    "vision/streaming/test_streaming.py": "loader, split and workers together",
    "experiment/test_stored.py": "run folders of before some options, by every verb",
    "sparse/native/test_driver.py": "the C files, under sanitizers",
    "sparse/native/test_fuzz.py": "the C files, beside float64",
    "experiment/detection/test_ssd512.py": "SSD512 on ResNet-50, and its recipes",
    "cli/training/test_detector_latency.py": "a detector, from steppe latency to its ONNX file",
    "llm/test_families.py": "every family of language models, from folder to folder",
}

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
# Calls of other packages that fail when something is not as it should be.
CHECKS = {"raises", "warns", "fail", "deprecated_call"}


def has_a_source(inside):
    """Whether a file of src/steppe, or a function of its package, has the name of this test."""
    name = inside.stem.removeprefix("test_")
    folder = SRC / inside.parent
    if (folder / f"{name}.py").is_file() or (folder / name).is_dir():
        return True
    # test_load.py beside a package's __init__.py may also be named after a function in it
    init = folder / "__init__.py"
    return init.is_file() and f"def {name}(" in init.read_text()


def test_every_test_file_has_its_source_file():
    files = [path.relative_to(TESTS) for path in sorted(TESTS.rglob("test_*.py"))]
    crossing = {f for f in files if f.parts[0] in CROSS or f.as_posix() in CROSS}
    homeless = [str(f) for f in files if f not in crossing and not has_a_source(f)]
    assert not homeless, "a test of more than one file goes into CROSS"


def asserts(tree, helpers):
    """Whether the code asserts, or calls what does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            if name in helpers or name in CHECKS or name.startswith("assert"):
                return True
    return False


def without_assertion(source):
    """Names of the test functions that can only fail by an accident.

    A function or class of the same file that asserts counts as an assertion where it is called.
    """
    tree = ast.parse(source)
    defined = [n for n in ast.walk(tree) if isinstance(n, FUNCTIONS | ast.ClassDef)]
    helpers = set()
    while True:
        grown = {d.name for d in defined if asserts(d, helpers) and not d.name.startswith("test_")}
        if grown == helpers:
            break
        helpers = grown
    tests = (d for d in defined if isinstance(d, FUNCTIONS) and d.name.startswith("test_"))
    return [d.name for d in tests if not asserts(d, helpers)]


def test_every_test_asserts_something():
    silent = {
        str(path.relative_to(TESTS)): names
        for path in sorted(TESTS.rglob("test_*.py"))
        if (names := without_assertion(path.read_text()))
    }
    assert not silent


def test_the_check_itself_finds_a_test_that_asserts_nothing():
    source = """
def run(): return 1
def helper(): inner()
def inner(): assert run()
def test_silent(): run()
def test_direct(): assert run()
def test_by_a_helper(): helper()
def test_that_it_raises():
    with pytest.raises(ValueError): run()
def test_close(): torch.testing.assert_close(run(), 1)
"""
    assert without_assertion(source) == ["test_silent"]


def test_a_loop_names_the_case_that_fails_and_skips_only_what_is_skipped():
    seen = []

    @looped(n=[1, 2, 3, 4])
    def each(n):
        if n == 2:
            pytest.skip("no two")
        seen.append(n)
        assert n < 3

    with pytest.raises(AssertionError) as failed:
        each()
    assert seen == [1, 3]
    assert failed.value.__notes__ == ["with n = 3"]
