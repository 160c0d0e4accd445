"""The recipes of ImageNet on a folder like it: two epochs of four batches, killed, resumed.

    python benchmarks/imagenet_like.py runs/imagenet-like
    python benchmarks/imagenet_recipes.py runs/imagenet-like --out runs/imagenet-recipes
    python benchmarks/imagenet_recipes.py runs/imagenet-like --only halp/imagenet-resnet50 --batch 8

Each recipe runs as it stands but for what this machine has not: its network is one of the same
architecture from a random start (no download), its table of latencies is measured here for one
image, its batch is small (and its learning rate with it), and it has as many epochs and images as
asked for. A run is killed (SIGKILL) once it has a checkpoint of its second epoch and started again;
its weights are compared with those of a run that was left alone. Printed is what the full length
would take here, at the speed of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from steppe import recipes
from steppe.core.serialization import load_tensors
from steppe.experiment.recipe import load_recipe

IMAGES = 1_281_167
"""Of ImageNet's training set."""
CONFIGS = {
    "microsoft/resnet-50": ("ResNetConfig", {}),
    "timm/mobilenetv1_100.ra4_e3600_r224_in1k": ("MobileNetV1Config", {}),
    "timm/mobilenetv2_100.ra_in1k": ("MobileNetV2Config", {"tf_padding": False}),
}
"""Network of a recipe -> what transformers calls its architecture."""


def names() -> list[str]:
    """The recipes whose data are ImageNet."""
    found = (n for n in recipes.names() if n.partition("/")[2].startswith("imagenet-"))
    return [name for name in found if load_recipe(name).data.name == "ILSVRC/imagenet-1k"]


def network(name: str, folder: Path, classes: int) -> Path:
    """A folder with the architecture of a network, and weights drawn at random."""
    import torch
    import transformers

    kind, options = CONFIGS[name]
    path = folder / kind
    if not (path / "model.safetensors").exists():
        torch.manual_seed(0)
        config = getattr(transformers, kind)(num_labels=classes, **options)
        transformers.AutoModelForImageClassification.from_config(config).save_pretrained(path)
    return path


def table(model: Path, folder: Path, size: int) -> Path:
    """The latency of every layer for one image, in the layout of the recipes."""
    path = folder / f"{model.name}-{size}.json"
    if not path.exists():
        command = [sys.executable, "-m", "steppe.cli.main", "latency", str(model), "--batch", "1"]
        command += ["--input-size", str(size), "--channels-last", "--device", "cpu"]
        subprocess.run([*command, "--out", str(path)], check=True, stdout=subprocess.DEVNULL)
    return path


def shortened(name: str, data: Path, folder: Path, epochs: int, batches: int, batch: int) -> Path:
    """The recipe as it runs here, written down."""
    plain = load_recipe(name).plain()
    classes = sum(entry.is_dir() for entry in (data / "train").iterdir())
    model = network(plain["model"]["name"], folder, classes)
    plain["model"]["name"] = str(model)
    plain["train"]["lr"] *= batch / plain["train"]["batch_size"]
    plain["data"] |= {"name": str(data), "train_size": batch * batches, "test_size": batch}
    plain["train"] |= {"epochs": epochs, "batch_size": batch, "bn_batches": 1, "eval_every": 0}
    plain["train"] |= {"warmup_epochs": 0.5, "checkpoint_steps": 1}
    if plain.get("channels", {}).get("table"):
        plain["channels"] |= {"table": str(table(model, folder, plain["data"]["size"])), "batch": 1}
    if plain["method"].get("cycles"):
        plain["method"]["cycles"] = epochs
    if "every" in plain["method"]:
        plain["method"]["every"] = 1
    path = folder / f"{name.replace('/', '-')}.yaml"
    path.write_text(yaml.safe_dump(plain | {"device": "cpu"}, sort_keys=False), encoding="utf-8")
    return path


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    """``steppe train`` in a process of its own."""
    command = [sys.executable, "-m", "steppe.cli.main", "train", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    """What it said, once it is done."""
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run failed: {said.splitlines()[-1] if said else process.returncode}")
    return said


def killed(recipe: Path, out: Path, steps: int) -> None:
    """Start a run and kill it once it has a checkpoint after so many steps."""
    process = start(recipe, out)
    last = out / "checkpoints" / "last.safetensors"
    saved, before = 0, None
    while process.poll() is None and saved < steps:
        if last.exists() and (stamp := last.stat().st_mtime_ns) != before:
            saved, before = saved + 1, stamp
        time.sleep(0.02)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def tried(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One recipe: run, and run again with a kill."""
    full = load_recipe(name).train
    recipe = shortened(name, args.folder, args.out, args.epochs, args.batches, args.batch)
    whole, again = (args.out / f"{recipe.stem}-{kind}" for kind in ("whole", "killed"))
    begun = time.perf_counter()
    finished(start(recipe, whole))
    seconds = time.perf_counter() - begun
    killed(recipe, again, args.batches + 1)
    unfinished = not (again / "record.json").exists()
    finished(start(recipe, again))
    ours, theirs = (load_tensors(run / "model.safetensors") for run in (whole, again))
    same = ours.keys() == theirs.keys() and all(t.equal(theirs[n]) for n, t in ours.items())
    record = json.loads((whole / "record.json").read_text(encoding="utf-8"))
    images = args.batches * args.batch * args.epochs
    days = full.epochs * IMAGES * record["seconds"] / images / 86_400
    print(
        f"{name}: {args.epochs} epochs of {args.batches} batches of {args.batch} in "
        f"{seconds:.0f} s; killed and resumed {'with the same bits' if same else 'OTHER BITS'}; "
        f"{full.epochs} epochs of ImageNet would take {days:,.0f} days here",
        flush=True,
    )
    return {
        "recipe": name,
        "seconds": seconds,
        "training_seconds": record["seconds"],
        "images": images,
        "killed_before_its_end": unfinished,
        "same_bits": same,
        "sparsity_asked": record["sparsity_asked"],
        "sparsity_reached": record["sparsity_reached"],
        "full_epochs": full.epochs,
        "full_days": days,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of imagenet_like.py")
    parser.add_argument("--out", type=Path, default=Path("runs/imagenet-recipes"))
    parser.add_argument("--only", nargs="+", default=None)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    args.folder, args.out = args.folder.resolve(), args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = [tried(name, args) for name in args.only or names()]
    if args.record is not None:
        record = {"date": date.today().isoformat(), "batch": args.batch, "runs": runs}
        args.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not all(run["same_bits"] for run in runs):
        raise SystemExit("a run that was killed ended with other bits")


if __name__ == "__main__":
    main()
