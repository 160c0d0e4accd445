"""The recipes of ImageNet on a folder like it: two epochs of four batches, killed, resumed.

    python benchmarks/imagenet_like.py runs/imagenet-like
    python benchmarks/imagenet_recipes.py runs/imagenet-like
    python benchmarks/imagenet_recipes.py runs/imagenet-like --only halp/imagenet-resnet50 --batch 8
    python benchmarks/imagenet_recipes.py runs/imagenet-like --size 64 --batch 8     # cheap

It needs ``pip install 'steppe[hub]'``.

Each recipe runs as it stands but for what this machine has not: its network is one of the same
architecture from a random start (no download), its table of latencies is measured here for one
image and few widths, its batch is small (and its learning rate with it), and
it has as many epochs and images as asked for. A run is killed (SIGKILL) once it has a checkpoint of
its second epoch and started again; its weights are compared with those of a run that was left
alone. One recipe runs in two processes (gloo, started by torchrun) as well, both killed and started
again. One network is measured on images in the layouts of ImageNet-C and ImageNet-V2, and on
several times as many of them (hard links), with the peak of memory of each.

Printed is what the full length would take here: the time of the short run for each image, in which
there is a checkpoint after every step. It is an estimate, and none where others use the machine.

What is in the record (``--record``) is not done again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from bench_selection import processor
from PIL import Image, ImageEnhance
from record_file import add_record, write_record

from steppe import recipes
from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.core.serialization import load_tensors
from steppe.experiment.recipe import load_recipe
from steppe.vision.framing import ResizeCenterCrop

IMAGES = 1_281_167
"""Of ImageNet's training set."""
CONFIGS = {
    "microsoft/resnet-50": ("ResNetConfig", {}, 64),
    "timm/mobilenetv1_100.ra4_e3600_r224_in1k": ("MobileNetV1Config", {}, 64),
    "timm/mobilenetv2_100.ra_in1k": ("MobileNetV2Config", {"tf_padding": False}, 16),
}
"""Network of a recipe -> what transformers calls its architecture; widths in a table of latencies
are multiples of the number."""
LESS = {"adasap/imagenet-mobilenet-v2-latency": 0.25}
"""Recipe -> what goes instead. Of one small image the widths of MobileNetV2 decide about too little
of the time for the recipe's 40 %; the paper has 25 % as well."""
IMPORTED = [
    *("accelerate", "torch._dynamo", "torch.distributed.tensor", "transformers.loss.loss_utils"),
    *("transformers.modeling_utils", "transformers.models.resnet.modeling_resnet"),
    *("steppe.cli.main", "steppe.cli.verb_train", "steppe.experiment.experiment"),
]
"""What a run imports, slowly."""


TIMES = "one short run each, a checkpoint after every step: estimates; none on a shared machine"


def names() -> list[str]:
    """The recipes whose data are ImageNet."""
    found = (n for n in recipes.names() if n.partition("/")[2].startswith("imagenet-"))
    return [name for name in found if load_recipe(name).data.name == "ILSVRC/imagenet-1k"]


def network(name: str, folder: Path, classes: int) -> Path:
    """A folder with the architecture of a network, and weights drawn at random."""
    import torch
    import transformers

    kind, options, _ = CONFIGS[name]
    path = folder / kind
    if not (path / "model.safetensors").exists():
        torch.manual_seed(0)
        config = getattr(transformers, kind)(num_labels=classes, **options)
        transformers.AutoModelForImageClassification.from_config(config).save_pretrained(path)
    return path


def table(model: Path, folder: Path, size: int, classes: int, round_to: int) -> Path:
    """The latency of every layer for one image, in the layout of the recipes."""
    path = folder / f"{model.name}-{size}-{round_to}.json"
    if not path.exists():
        command = [sys.executable, "-m", "steppe.cli.main", "latency", str(model), "--batch", "1"]
        command += ["--input-size", str(size), "--classes", str(classes), "--channels-last"]
        command += ["--round-to", str(round_to), "--passes", "1", "--device", "cpu"]
        subprocess.run([*command, "--out", str(path), "--quiet"], check=True)
    return path


def shortened(name: str, args: argparse.Namespace) -> Path:
    """The recipe as it runs here, written down."""
    plain, batch = load_recipe(name).plain(), args.batch
    classes = sum(entry.is_dir() for entry in (args.folder / "train").iterdir())
    *_, round_to = CONFIGS[plain["model"]["name"]]
    model = network(plain["model"]["name"], args.out, classes)
    plain["model"]["name"] = str(model)
    plain["train"]["lr"] *= batch / plain["train"]["batch_size"]
    plain["data"] |= {"name": str(args.folder), "train_size": batch * args.batches}
    plain["data"] |= {"test_size": batch}
    if args.size is not None:
        plain["data"] |= {"size": args.size, "resize": round(args.size * 8 / 7)}
    plain["train"] |= {"epochs": args.epochs, "batch_size": batch, "bn_batches": 1}
    plain["train"] |= {"warmup_epochs": 0.5, "checkpoint_steps": 1, "eval_every": 0}
    if plain.get("channels", {}).get("table"):
        measured = table(model, args.out, plain["data"]["size"], classes, round_to)
        plain["channels"] |= {"table": str(measured), "batch": 1, "round_to": round_to}
    plain["method"]["sparsity"] = LESS.get(name, plain["method"]["sparsity"])
    if plain["method"].get("cycles"):
        plain["method"]["cycles"] = args.epochs
    if "every" in plain["method"]:
        plain["method"]["every"] = 1
    path: Path = args.out / f"{name.replace('/', '-')}.yaml"
    path.write_text(yaml.safe_dump(plain | {"device": "cpu"}, sort_keys=False), encoding="utf-8")
    return path


def words(recipe: Path, out: Path) -> list[str]:
    """What ``steppe`` is asked for."""
    return ["train", str(recipe), "--out", str(out)]


def command(asked: list[str], log: Path, env: dict[str, str]) -> None:
    """``steppe`` in this process, which has nothing else to do; what it says goes into a file."""
    os.environ |= env
    # the workers that decode, as those of a process that was started by itself
    multiprocessing.set_start_method("fork", force=True)
    with log.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    from steppe.cli.main import main

    main(asked)


def start(recipe: Path, out: Path, ranks: int) -> list[Any]:
    """A run in processes that can be killed: each knows its rank, as if torchrun had told it.

    They are forked from one that has imported what they need, which else takes most of the time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    processes = []
    for rank in range(ranks):
        env = together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        log = out.with_name(f"{out.name}-{rank}.log")
        processes.append(context.Process(target=command, args=(words(recipe, out), log, env)))
        processes[-1].start()
    return processes


def finished(recipe: Path, out: Path, ranks: int, limit: float) -> str:
    """A run to its end, with several ranks by torchrun; what its progress said last."""
    log = out.with_name(f"{out.name}-0.log")
    try:
        if ranks > 1:
            torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            in_a_session(
                ["-m", *torchrun, "-m", "steppe.cli.main", *words(recipe, out)], log, limit
            )
        else:
            watched(start(recipe, out, ranks), lambda: False, limit)
    except RuntimeError as error:
        raise RuntimeError(f"{recipe.stem} {error}; {ending(log)}") from None
    paces = [line for line in log.read_text(encoding="utf-8").splitlines() if "images/s" in line]
    return paces[-1] if paces else ""


def ending(log: Path) -> str:
    """What a run said last."""
    said = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return f"{log} ends with: {' '.join(said[-1:])}"


def in_a_session(words: list[str], log: Path, limit: float) -> None:
    """Python with these words, and the processes that it starts; all of them end in time.

    Raises:
        RuntimeError: it failed, or was not done in time.
    """
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *words], stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"was not done after {limit:g} s") from None
        finally:
            with suppress(ProcessLookupError):  # nobody of the session is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code:
        raise RuntimeError(f"failed ({code})")


def watched(processes: Sequence[Any], done: Callable[[], bool], limit: float) -> None:
    """Wait until ``done``, or until the first of the processes ends; then kill those left.

    Raises:
        RuntimeError: one of them failed, or it took longer than ``limit`` seconds.
    """
    end = time.monotonic() + limit
    try:
        while all(process.is_alive() for process in processes) and not done():
            if time.monotonic() > end:
                raise RuntimeError(f"was not done after {limit:g} s")
            time.sleep(0.02)
        codes = {rank: p.exitcode for rank, p in enumerate(processes) if p.exitcode}
        if codes:
            told = ", ".join(f"rank {rank} with {code}" for rank, code in codes.items())
            raise RuntimeError(f"failed ({told})")
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def killed(recipe: Path, out: Path, steps: int, ranks: int, limit: float) -> None:
    """Start a run and kill it once it has a checkpoint after so many steps."""
    last = out / "checkpoints" / "last.safetensors"
    stamps: set[int] = set()

    def saved() -> bool:
        if last.exists():
            stamps.add(last.stat().st_mtime_ns)
        return len(stamps) >= steps

    try:
        watched(start(recipe, out, ranks), saved, limit)
    except RuntimeError as error:
        log = out.with_name(f"{out.name}-0.log")
        raise RuntimeError(f"{recipe.stem}, to be killed, {error}; {ending(log)}") from None


def tried(name: str, ranks: int, args: argparse.Namespace) -> dict[str, Any]:
    """One recipe: run, and run again with a kill."""
    full = load_recipe(name)
    recipe = shortened(name, args)
    stem = recipe.stem + (f"-{ranks}-ranks" if ranks > 1 else "")
    whole, again = (args.out / f"{stem}-{kind}" for kind in ("whole", "killed"))
    for run in (whole, again):
        shutil.rmtree(run, ignore_errors=True)
    said = finished(recipe, whole, ranks, args.limit)
    killed(recipe, again, args.batches + 1, ranks, args.limit)
    unfinished = not (again / "record.json").exists()
    finished(recipe, again, ranks, args.limit)
    ours, theirs = (load_tensors(run / "model.safetensors") for run in (whole, again))
    same = ours.keys() == theirs.keys() and all(t.equal(theirs[n]) for n, t in ours.items())
    record, other = (
        json.loads((run / "record.json").read_text(encoding="utf-8")) for run in (whole, again)
    )
    resumed = [note for note in other["notes"] if note.startswith("resumed after step")]
    images = args.batches * args.batch * args.epochs
    days = full.train.epochs * IMAGES * record["seconds"] / images / 86_400
    size = record["recipe"]["data"]["size"]
    print(
        f"{name}{f' in {ranks} processes' if ranks > 1 else ''}: {args.epochs} epochs of "
        f"{args.batches} batches of {args.batch}, {', '.join(resumed) or 'NOT RESUMED'}, "
        f"{'same bits' if same else 'OTHER BITS'}; {full.train.epochs:,} epochs of ImageNet at "
        f"{size} x {size} would take {days:,.0f} days here",
        flush=True,
    )
    return {
        "recipe": name,
        "ranks": ranks,
        "size": size,
        "images": images,
        "seconds": record["seconds"],
        "killed_before_its_end": unfinished and bool(resumed),
        "resumed": resumed,
        "same_bits": same,
        "sparsity_asked": record["sparsity_asked"],
        "sparsity_reached": record["sparsity_reached"],
        "full_epochs": full.train.epochs,
        "full_days_estimated": days,
        "said": said,
    }


def published(folder: Path, out: Path, times: int) -> dict[str, Path]:
    """The test images so often, laid out as ImageNet-C (one kind, one severity) and as V2."""
    laid = {"corruptions": out / f"imagenet-c-{times}", "shifted": out / f"imagenet-v2-{times}"}
    framing = ResizeCenterCrop(224, 256)
    for label, of_class in enumerate(sorted((folder / "val").iterdir())):
        grey = laid["corruptions"] / "contrast" / "3" / of_class.name
        new = laid["shifted"] / "matched-frequency" / str(label)
        for place in (grey, new):
            place.mkdir(parents=True, exist_ok=True)
        for path in of_class.iterdir():
            first = grey / f"0-{path.name}"
            if not first.exists():
                image = Image.open(path)
                cut = framing(*image.size).of(image.convert("RGB"))
                ImageEnhance.Contrast(cut).enhance(0.2).save(first, "jpeg", quality=90)
            for i in range(times):
                for source, place in ((first, grey), (path, new)):
                    if not (link := place / f"{i}-{path.name}").exists():
                        os.link(source, link)
    return laid


MEASURED = """
import sys
from pathlib import Path
from steppe.cli.main import main
try:
    main(sys.argv[1:])
finally:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""
"""``steppe`` in a process that says in the end how many KiB it held at most."""


def evaluated(run: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A network on both in one process, once and on so many times as many images."""
    found = []
    for times in (1, args.times):
        folders = published(args.folder, args.out, times)
        command = [sys.executable, "-c", MEASURED, "evaluate", str(run)]
        command += ["--on", "corruptions,shifted", "--corruptions", "contrast", "--severities", "3"]
        command += ["--corrupted", str(folders["corruptions"])]
        command += ["--shifted", str(folders["shifted"]), "--json", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if not line.isdecimal()]
            raise SystemExit(f"steppe evaluate failed ({done.returncode}): {' '.join(said[-1:])}")
        on = json.loads(done.stdout)
        row = {"network": run.name, "corruptions": on["corruptions"]["images"]}
        row["shifted"] = on["shifted"]["images"]["matched-frequency"]
        row["peak_bytes"] = 1024 * int(done.stderr.splitlines()[-1])
        print(json.dumps(row), flush=True)
        found.append(row)
    return found


def begun(args: argparse.Namespace) -> dict[str, Any]:
    """The record as far as it is there, if it was made in the same way."""
    how = {"processor": processor(), "size": args.size, "batch": args.batch}
    how |= {"epochs": args.epochs, "batches": args.batches}
    there: dict[str, Any] = {}
    if args.record.exists():
        there = json.loads(args.record.read_text(encoding="utf-8"))
    if all(there.get(key) == value for key, value in how.items()):
        return there
    return {"date": date.today().isoformat(), **how, "times": TIMES, "runs": []}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of imagenet_like.py")
    parser.add_argument("--out", type=Path, default=Path("runs/imagenet-recipes"))
    parser.add_argument("--only", nargs="+", default=None)
    parser.add_argument("--in-two", nargs="*", default=["pilot/imagenet-resnet50"])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, help="of the images; the recipe's otherwise")
    parser.add_argument("--times", type=int, default=10, help="as many images evaluated on")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds of a run, then killed")
    add_record(parser, "imagenet-recipes")
    args = parser.parse_args()
    try:
        require("transformers", install="'steppe[hub]'", purpose="imagenet_recipes.py")
    except SteppeError as error:
        raise SystemExit(str(error)) from None
    args.folder, args.out = args.folder.resolve(), args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    record = begun(args)
    runs = record["runs"]
    asked = [(name, 1) for name in args.only or names()] + [(name, 2) for name in args.in_two]
    failed = 0
    for name, ranks in asked:
        if any((run["recipe"], run["ranks"]) == (name, ranks) for run in runs):
            continue
        try:
            runs.append(tried(name, ranks, args))
        except RuntimeError as error:  # the others can do without it
            failed += 1
            print(error, file=sys.stderr, flush=True)
        write_record(args.record, record)
    network = args.out / f"{asked[0][0].replace('/', '-')}-whole"
    if "evaluated" not in record and (network / "record.json").exists():
        record["evaluated"] = evaluated(network, args)
        write_record(args.record, record)
    if failed or not all(run["same_bits"] and run["killed_before_its_end"] for run in runs):
        raise SystemExit("a run failed, was not killed in its midst, or ended with other bits")


if __name__ == "__main__":
    main()
