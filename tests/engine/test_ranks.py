"""Two processes beside one: sums, files, and an error that ends both."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from steppe.engine import ranks

WORKER = Path(__file__).with_name("ranks_worker.py")


def test_alone() -> None:
    assert (ranks.rank(), ranks.world(), ranks.first(), ranks.speaks()) == (0, 1, True, True)
    assert ranks.share(5) == range(5)
    x = torch.ones(2)
    ranks.add_up([x])
    ranks.least(x)
    ranks.barrier()
    assert x.tolist() == [1.0, 1.0]


ENDS = """
import atexit
from steppe.engine import ranks

class Kept:
    def __del__(self, say=print):
        say("clean-up")

kept = Kept()
atexit.register(print, "at exit")
ranks.world = lambda: {world}
print("work")
ranks.leave(3)
"""


@pytest.mark.parametrize(("world", "said"), [(1, ["clean-up"]), (2, [])])
def test_one_of_several_ends_before_the_clean_up_in_which_gloo_aborts(
    world: int, said: list[str]
) -> None:
    code = ENDS.format(world=world)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 3, done.stderr
    assert done.stdout.split("\n")[:-1] == ["work", "at exit", *said]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 6, 128])
def test_shares_cover_all(world: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append(list(ranks.share(n)))
    assert [i for share in shares for i in share] == list(range(n))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], list[int]]:
    """The folder, what each of two processes found, and how it ended."""
    if not dist.is_gloo_available():
        pytest.skip("torch without gloo")
    folder = tmp_path_factory.mktemp("ranks")
    tests = str(WORKER.parents[1])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    found = [folder / f"found-{rank}.json" for rank in range(2)]
    assert all(path.exists() for path in found), "\n".join(errors)
    codes = [process.returncode for process in started]
    return folder, [json.loads(path.read_text()) for path in found], codes


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    """The module that each of the processes runs."""
    spec = importlib.util.spec_from_file_location("ranks_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    return worker


def test_together(two: Any) -> None:
    _, found, _ = two
    assert [f["rank"] for f in found] == [0, 1]
    assert [f["first"] for f in found] == [True, False]
    for f in found:
        assert f["world"] == 2
        assert f["added"] == [2.0, 1.0]
        assert f["least"] == [5, 3]
    assert [found[0]["share"][n] + found[1]["share"][n] for n in range(6)] == [
        list(range(n)) for n in range(6)
    ]


def test_kronecker_factors_are_those_of_all_images(two: Any, worker: Any) -> None:
    alone, found = worker.factors(0, 1), [f["factors"] for f in two[1]]
    assert found[0] == found[1]
    assert found[0]["mask"] == alone["mask"]
    assert len(alone["statistics"]) == 6
    for name, value in alone["statistics"].items():
        torch.testing.assert_close(
            torch.tensor(found[0]["statistics"][name]), torch.tensor(value), msg=name
        )


@pytest.mark.parametrize("name", ["eagleeye", "abcpruner"])
def test_a_search_goes_by_what_the_first_one_finds(name: str, two: Any, worker: Any) -> None:
    """Though the second one finds the contrary: two masks would be two networks."""
    alone, contrary = (worker.searched(rank, name) for rank in range(2))
    assert alone != contrary
    assert [f["searched"][name] for f in two[1]] == [alone, alone]
    assert [f["number_of_first"] for f in two[1]] == [0.1, 0.1]


def test_what_is_saved_in_the_midst_of_an_epoch_is_of_all_processes(two: Any) -> None:
    """One file is saved, and all go on with it."""
    for found in two[1]:
        assert found["counted"] == {"held": [1.0, 2.0], "accuracy": 0.625}


def test_statistics_are_summed_under_the_same_names(two: Any) -> None:
    _, found, _ = two
    assert found[0]["collected"] == found[1]["collected"]
    held, x = found[0]["collected"], torch.arange(12.0).reshape(3, 4)
    assert held["shared"]
    torch.testing.assert_close(torch.tensor(held["w3"]), x.t() @ x / 3)
    both = torch.cat([x[:1], x[:2]])
    torch.testing.assert_close(torch.tensor(held["both"])[0], both.square().mean(0))
    assert held["unused"] == ["d"]


def test_a_journal_is_read_before_it_is_written(two: Any) -> None:
    for found in two[1]:
        assert found["journal"] == {"before": None, "again": 0}


@pytest.mark.parametrize("name", ["sparsegpt", "safe_plus"])
def test_a_walk_of_two_is_a_walk_of_one(
    name: str, two: Any, worker: Any, toy: ModuleType, tmp_path: Path
) -> None:
    worker.walk(toy, tmp_path, name)
    names = sorted(p.name for p in tmp_path.glob("block-*.safetensors"))
    assert len(names) == 3
    for file in names:
        one, other = load_file(tmp_path / file), load_file(two[0] / name / file)
        for key, w in one.items():
            torch.testing.assert_close(other[key], w, atol=2e-5, rtol=0, msg=f"{file} {key}")


def test_the_first_that_fails_tells_of_it_once(two: Any) -> None:
    assert sum(said for found in two[1] for said in found["speaks"]) == 1


def test_an_error_on_one_ends_both(two: Any) -> None:
    folder, _, codes = two
    assert all(code != 0 for code in codes)
    held = json.loads((folder / "fails/checkpoints/journal.json").read_text())
    assert [row["block"] for row in held["blocks"]] == [0], "what was done stays done"
