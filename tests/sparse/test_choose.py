"""The choice of a format: by what was surely faster, once, for this machine alone."""

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from looped import looped
from steppe.core.speed import Speed
from steppe.sparse import choose as module
from steppe.sparse.choose import MARGIN, Choice, Question, choose, conditions, decided, measured
from steppe.sparse.format import FORMATS
from steppe.sparse.native.library import library, why_not
from steppe.sparse.native.threads import OF_A_FORK

QUESTION = Question(rows=64, columns=128, stored="float32", dtype="float32", tokens=1, sparsity=0.9)


def speed(ratio, turns=9, slowest=None):
    return Speed.of([(ratio, 1.0)] * (turns - 1) + [(slowest or ratio, 1.0)])


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(module, "_KNOWN", {})
    module._warn.cache_clear()


@pytest.fixture
def asked(monkeypatch):
    """Which questions were measured; bits is always twice as fast."""
    questions = []

    def measure(question):
        questions.append(question)
        return {"bits": speed(2.0), "index": speed(1.5)}

    monkeypatch.setattr(module, "measured", measure)
    return questions


def files():
    return list((Path(os.environ["XDG_CACHE_HOME"]) / "steppe" / "sparse").glob("*.json"))


def test_the_fastest_that_is_surely_faster():
    assert decided({"bits": speed(2.0), "index": speed(3.0)}).format == "index"
    # fast in the middle, but not for sure
    assert decided({"bits": speed(1.5), "index": speed(3.0, slowest=1.0)}).format == "bits"
    assert decided({"bits": speed(MARGIN)}).format == "dense"
    assert decided({"bits": speed(5.0, turns=7)}).format == "dense", "too few turns for a bound"
    assert decided({}).format == "dense"
    why = decided({"bits": speed(1.01), "csr": speed(0.5)}).why
    assert why == "bits is not surely faster: 1.01 to 1.01 times as fast as dense here"


def test_it_is_measured_once_and_remembered_for_all_processes(asked):
    first = choose(QUESTION)
    assert (first.format, first.speeds["index"]["ratio"]) == ("bits", 1.5)
    assert choose(QUESTION) == first
    module._KNOWN.clear()  # another process
    assert choose(QUESTION) == first
    assert asked == [QUESTION]
    (file,) = files()
    stored = json.loads(file.read_text())
    assert stored["decided_by"]["question"]["rows"] == 64
    assert {"processor", "threads", "torch", "instruction_set", "kernels"} <= set(
        stored["decided_by"]
    )
    other = replace(QUESTION, tokens=4)
    choose(other)
    assert asked == [QUESTION, other]


@looped(name=["processor", "threads", "torch", "instruction_set", "kernels", "formats"])
def test_what_another_machine_found_is_not_used(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_KNOWN", {})
        patch.setattr(module, "measured", lambda question: {"bits": speed(2.0)})
        assert choose(QUESTION).format == "bits"
        here = conditions()
        patch.setattr(module, "conditions", lambda: here | {name: "other"})
        patch.setattr(module, "measured", lambda question: {})
        assert choose(QUESTION).format == "dense"


def test_a_forked_process_whose_kernels_have_one_thread_asks_for_itself(asked, monkeypatch):
    if (own := library()) is None:
        pytest.skip(why_not())
    choose(QUESTION)
    monkeypatch.setattr(module, "library", lambda: replace(own, pool=OF_A_FORK))
    choose(QUESTION)
    assert asked == [QUESTION, QUESTION]


DAMAGED = [{"format": "gone"}, {"format": ["bits"]}, {"why": 1}, {"speeds": []}, {"more": 1}]


@looped(text=["", "{", "[]", '{"decided_by": 1}', *DAMAGED])
def test_a_file_that_is_damaged_or_of_something_else_counts_as_none(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_KNOWN", {})
        patch.setattr(module, "measured", lambda question: {"bits": speed(2.0)})
        known = choose(QUESTION)
        (file,) = files()
        stored = json.loads(file.read_text())
        if isinstance(text, dict):
            text = json.dumps(stored | {"choice": stored["choice"] | text})
        file.write_text(text)
        module._KNOWN.clear()
        assert choose(QUESTION) == known
        assert json.loads(file.read_text()) == stored, "it was written anew"


def locks():
    return list((Path(os.environ["XDG_CACHE_HOME"]) / "steppe" / "sparse").glob("*.lock"))


def test_one_process_measures_at_a_time(monkeypatch):
    """Others would be in its way, and all of them would measure the same."""

    def measure(question):
        (lock,) = locks()
        with open(lock) as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return {"bits": speed(2.0)}

    monkeypatch.setattr(module, "measured", measure)
    choose(QUESTION)
    choose(replace(QUESTION, tokens=4))
    with open(*locks()) as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_another_measured_while_one_waited_is_taken(asked, monkeypatch):
    choose(QUESTION)
    (file,) = files()
    text = file.read_text()
    file.unlink()
    module._KNOWN.clear()

    @contextlib.contextmanager
    def waited(name):
        file.write_text(text.replace("2.0", "7.0"))
        yield

    monkeypatch.setattr(module, "alone", waited)
    assert choose(QUESTION).speeds["bits"]["ratio"] == 7.0
    assert asked == [QUESTION]


@pytest.mark.parametrize("fault", [PermissionError, OSError(errno.ENOLCK, "no locks available")])
def test_where_no_lock_can_be_had_it_is_measured_all_the_same(asked, monkeypatch, fault):
    def refused(*_):
        raise fault

    monkeypatch.setattr("fcntl.flock", refused)
    choose(QUESTION)
    module._KNOWN.clear()
    assert choose(QUESTION).format == "bits"
    assert len(asked) == 1


def test_a_home_that_cannot_be_written_is_said_once(asked, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"measured again by each process.*XDG_CACHE_HOME") as said:
        choice, _ = (choose(replace(QUESTION, tokens=tokens)) for tokens in (1, 4))
    assert len(said) == 1
    assert str(tmp_path / "file") in str(said[0].message)
    assert choice.why == "bits is 2.00 times as fast as dense here"
    assert choose(QUESTION) == choice
    assert len(asked) == 2


def test_a_user_without_a_home(asked, monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    with pytest.warns(UserWarning, match="measured again by each process"):
        assert choose(QUESTION).format == "bits"


def test_a_measure_of_ones_own_is_not_remembered():
    assert choose(QUESTION, lambda question: {"bits": speed(2.0)}).format == "bits"
    assert not files()


@looped(share=[(0.0, 0.0), (0.5, 0.5), (0.51, 0.5), (0.52, 0.525), (1.0, 1.0)])
def test_sparsities_are_rounded(share):
    zeros, rounded = share
    weight = torch.ones(100, 100)
    weight.view(-1)[: round(zeros * 10_000)] = 0
    question = Question.of(weight.half(), tokens=2)
    assert (question.sparsity, question.stored, question.dtype) == (rounded, "float16", "float16")


def test_each_format_that_is_smaller_is_timed_beside_dense_cold(monkeypatch):
    copies, orders = {}, []

    def in_turns(works, turns, cuda):
        for work in works:
            matrices, x = work.args
            name = matrices[0].name
            copies[name] = matrices
            assert x.shape == (2, 128)
            places = {t.data_ptr() for m in matrices for t in m.tensors().values() if len(t)}
            assert len(places) == sum(
                1 for m in matrices for t in m.tensors().values() if len(t)
            ), "each copy has memory of its own"
            work()
            orders.append(name)
        return [[len(copies[name]) * (8.0 if name == "dense" else 2.0)] * 9 for name in orders]

    monkeypatch.setattr(module, "in_turns", in_turns)
    monkeypatch.setattr(module, "last_level_cache", lambda: 100_000)
    speeds = measured(replace(QUESTION, tokens=2))
    assert orders[0] == "dense"
    assert set(speeds) == {name for name in FORMATS if name != "dense" and FORMATS[name].quick()}
    assert {s.ratio for s in speeds.values()} == {4.0}, "for one product, whatever the copies"
    for matrices in copies.values():
        assert len(matrices) * matrices[0].bytes >= 200_000
        assert abs(matrices[0].sparsity - 0.9) < 0.02


def test_of_a_matrix_beyond_the_cache_some_rows_are_measured(monkeypatch):
    shapes = []

    def in_turns(works, turns, cuda):
        for work in works:
            matrices, _ = work.args
            shapes.append((matrices[0].rows, matrices[0].columns, len(matrices)))
        return [[1.0] * 9 for _ in works]

    monkeypatch.setattr(module, "in_turns", in_turns)
    monkeypatch.setattr(module, "last_level_cache", lambda: 20_000)
    measured(replace(QUESTION, rows=10**9))
    assert shapes[0] == (40_000 // (4 * 128), 128, 2)
    assert {rows for rows, *_ in shapes} == {shapes[0][0]}


def test_what_would_be_larger_or_has_no_product_here_is_not_timed(monkeypatch):
    monkeypatch.setattr(module, "in_turns", lambda works, turns, cuda: [[1.0] * 9 for _ in works])
    monkeypatch.setattr(module, "last_level_cache", lambda: 20_000)
    full = replace(QUESTION, sparsity=0.0)
    assert measured(full) == {}
    for name in ("bits", "index", "csr"):
        monkeypatch.setattr(FORMATS[name], "quick", classmethod(lambda cls, device: False))
    assert measured(QUESTION) == {}
    assert choose(QUESTION, lambda q: measured(q)) == Choice(
        format="dense", why="no format is smaller, or has a product here"
    )


def test_a_choice_for_a_gpu_holds_for_that_gpu(monkeypatch, asked):
    """The GPU is played: its name and version are in what the file says."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    on_gpu = replace(QUESTION, device="cuda")
    choose(QUESTION)
    choose(on_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another GPU")
    module._KNOWN.clear()
    choose(on_gpu)
    choose(QUESTION)
    assert asked == [QUESTION, on_gpu, on_gpu]
    decided_by = [json.loads(file.read_text())["decided_by"] for file in files()]
    assert {own.get("gpu") for own in decided_by} == {None, "a GPU", "another GPU"}
