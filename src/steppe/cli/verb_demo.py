"""``steppe demo``: digits, dense against sparse, in two minutes."""

from __future__ import annotations

import json as json_module
import shlex
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from torch import nn
from torch.nn import functional as F

from steppe.cli.main import emit, say
from steppe.cli.short import say_short
from steppe.core.courtesy import courtesy
from steppe.core.errors import SteppeError
from steppe.core.serialization import write_text
from steppe.core.text import counted, read_yaml
from steppe.evaluation import ensure
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import Recipe, parse
from steppe.report.html import write_report
from steppe.report.in_short import InShort
from steppe.report.record import read_records
from steppe.report.table import Rows
from steppe.robustness.hessian import hessian_top
from steppe.robustness.noise import accuracy_under_noise
from steppe.robustness.sharpness import ball_sharpness
from steppe.vision.data import ImageData, Split
from steppe.vision.loader import Loader


def add(app: typer.Typer) -> None:
    app.command("demo", short_help="Train five methods on digits, and compare them.")(command)


def command(
    out: Annotated[Path, typer.Option(help="runs and the report; goes on with those there")] = Path(
        "runs/demo"
    ),
    seeds: Annotated[int, typer.Option(help="seeds per method and sparsity")] = 3,
    seed: Annotated[int, typer.Option(help="the first seed")] = 0,
    jobs: Annotated[int, typer.Option(help="processes side by side")] = 2,
    device: Annotated[str, typer.Option(help="cpu, or what accelerate finds")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Digits: dense, magnitude, GMP, ADMM, SAFE at 95, 98, 99 %; a table and a report."""
    if seeds < 1:
        raise SteppeError("the demo needs at least one seed", got=seeds, way_out="--seeds 3")
    begun = time.monotonic()
    plan = read_yaml(files("steppe.cli").joinpath("demo.yaml").read_text(encoding="utf-8"))
    wanted = list(_runs(plan, range(seed, seed + seeds), device))
    work = [(recipe.plain(), str(out / folder), plan) for folder, recipe in wanted]
    _run_all(work, jobs, quiet)
    records = read_records([out / folder for folder, _ in wanted])
    short = InShort.of(records)
    report = out / "report.html"
    again = ["steppe", "demo", "--seeds", str(seeds), "--out", str(out)]
    commands = ["make demo", shlex.join(again)]
    with courtesy("the table"):
        table = Rows.from_records(records)
        shown = table.only("accuracy", "hessian_top", "sharpness", plan["shown_noise"])
        if not quiet:
            Console(stderr=json).print(shown.rich())
        say_short(short, quiet)
    with courtesy("the report"):
        write_report(report, title="steppe demo: digits", records=records, commands=commands)
        say(f"report: {report.resolve()} ({time.monotonic() - begun:.0f} s)", quiet)
    seconds = time.monotonic() - begun
    result = {"records": records, "verdicts": short.full, "report": str(report), "seconds": seconds}
    emit(result, json)


def _runs(plan: dict[str, Any], seeds: Iterable[int], device: str) -> Iterator[tuple[str, Recipe]]:
    for seed in seeds:
        for method in plan["methods"]:
            levels = plan["sparsities"] if method["name"] != "dense" else [None]
            for level in levels:
                own = dict(method)
                train = plan["train"] | own.pop("train", {})
                label = own["name"]
                if level is not None:
                    own["sparsity"] = level
                    label += f"-{level:g}"
                base = {k: plan[k] for k in ("model", "data")}
                yield (
                    f"{label}-seed{seed}",
                    parse(base | {"method": own, "train": train, "seed": seed, "device": device}),
                )


def _run_all(
    work: list[tuple[dict[str, Any], str, dict[str, Any]]], jobs: int, quiet: bool
) -> None:
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=console, disable=quiet
    ) as progress:
        bar = progress.add_task(counted(len(work), "network"), total=2 * len(work))
        # one thread each: networks this small are fastest side by side
        with ProcessPoolExecutor(max(jobs, 1), mp_context=get_context("spawn")) as pool:
            # all are trained before one is measured: it is laid beside the dense one of its seed
            for stage in (_train, _evaluate):
                for _ in pool.map(stage, work):
                    progress.advance(bar)


def _train(job: tuple[dict[str, Any], str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    plain, folder, plan = job
    recipe = parse(plain)
    data = load_data(recipe)
    _, model, _ = Experiment(recipe, data, Path(folder), quiet=True).train()
    measured = Path(folder) / "flatness.json"
    if not measured.exists():
        with courtesy(f"flatness of {folder}"):
            write_text(measured, json_module.dumps(_measure(model, data, plan["measure"])))


def _evaluate(job: tuple[dict[str, Any], str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    plain, folder, plan = job
    method, seed = plain["method"], plain["seed"]
    dense = Path(folder).parent / f"dense-seed{seed}"
    beside = {"beside": str(dense)} if method["name"] != "dense" else {}
    wanted = {"clean": beside, **plan["evaluate"]}
    if method.get("sparsity", max(plan["sparsities"])) == max(plan["sparsities"]):
        wanted["landscape"] = plan["landscape"]
    for name, given in wanted.items():
        with courtesy(f"{name} of {folder}"):
            ensure(name, folder, given)


def _measure(model: nn.Module, data: ImageData, measure: dict[str, Any]) -> dict[str, Any]:
    """Flatness on the training images, accuracy under noise on the test images."""
    whole = {"shuffle": False, "augment": None, "drop_last": False}
    batches = list(Loader.of(data, "train", 2000, **whole).epoch(0))
    model.cpu().eval()
    rho = measure["sharpness_rho"]
    top = hessian_top(model, F.cross_entropy, batches)
    sharp = ball_sharpness(
        model, F.cross_entropy, batches, rho=rho, steps=measure["sharpness_steps"]
    )
    assert isinstance(data.test, Split), "the digits lie in memory"
    images, labels = data.test.images.float() / 255, data.test.labels
    norm: dict[str, Any] = {"mean": data.mean, "std": data.std}
    return {
        "flatness": {"hessian_top": top.eigenvalue, "sharpness": sharp, "rho": rho},
        "noise": {
            f"{sigma:g}": accuracy_under_noise(model, images, labels, sigma=sigma, **norm)
            for sigma in measure["noise"]
        },
    }
