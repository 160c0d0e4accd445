"""docs/benchmarks.md: the figures of its text."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from ..registry import Cited, Claim, Rule, claims
from ..sources import record

PAGE = "docs/benchmarks.md"


@claims(PAGE, "")
def versions() -> Iterator[Claim]:
    for name in ("torch", "numpy"):
        version = record("selection")[name].partition("+")[0]
        yield f"{name} {version}", Rule("benchmarks/records/selection.json", f'"{version}')


@claims(PAGE, "The pooled threshold (`bench_selection.py`)")
def selection() -> Iterator[Claim]:
    own = record("selection")
    shares = [100 * one["share"] for one in own["extra memory"].values()]
    yield "{}% of the weights' bytes at 25 M, {}% at 100 M", *shares
    rule = Rule("benchmarks/records/selection.json", "at most 0.2")
    yield "(target: under 20 %)", rule
    small = own["small network"]
    yield "All masks of a ResNet-20 ({} weights): {} ms", small["elements"], small["milliseconds"]


@claims(PAGE, "A step (`bench_step.py`)", ["benchmarks/bench_step.py"])
def step() -> Iterator[Claim]:
    weights = record("selection")["small network"]["elements"]
    yield "(ResNet-20, {} M weights)", weights / 1e6


@claims(PAGE, "Layer solvers (`bench_solvers.py`)")
def solvers() -> Iterator[Claim]:
    rows = record("solvers")["solvers"]
    off = {
        name: [
            100 * (1 - row["relative_error"] / row["official_relative_error"])
            for row in rows
            if row["method"] == name
        ]
        for name in ("sparsegpt", "alps")
    }
    yield "errors lie within {} % of the official figures", max(map(abs, off["sparsegpt"]))
    yield "ALPS's are about {} % lower", statistics.mean(off["alps"])
    yield "SparseGPT n^3 / 3 for the factor", Cited("operations of a Cholesky factor")


@claims(PAGE, "A model larger than its memory (`bench_memory.py`)", ["benchmarks/bench_memory.py"])
def memory() -> Iterator[Claim]:
    own = record("memory")
    yield "A random Llama of {} blocks, {} GB of", own["blocks"], own["model_bytes"] / 1e9
    limits = {arm["limit_bytes"] / 1e9 for arm in own["arms"].values()}
    yield "limited by the operating system to {} GB", *limits
    given = own["calibration"]
    yield "{} windows of {} tokens", given["samples"], given["window"]


@claims(PAGE, "Beside llm-compressor (`bench_llmcompressor.py`)")
def llm_compressor() -> Iterator[Claim]:
    own = record("llmcompressor")
    given = own["calibration"]
    yield "the same {} calibration windows of {} tokens", given["samples"], given["window"]
    version = own["versions"]["llmcompressor"]["llmcompressor"]
    yield f"llmcompressor {version}", Rule("benchmarks/records/llmcompressor.json", version)
    yield "Dense: {}.", own["dense"]["perplexity"]
    first = next(row for row in own["rows"] if row["method"] == "sparsegpt")
    ours, theirs = (first[who]["perplexity"] for who in ("steppe", "llmcompressor"))
    yield "SparseGPT's differ by {} % at 50 %", 100 * (ours / theirs - 1)


@claims(PAGE, "Corruptions (`bench_corruptions.py`)")
def corruptions() -> Iterator[Claim]:
    own = record("corruptions")
    kinds = {name.partition("/")[0] for name in own["rows"]}
    yield (
        "All {} x {} of {} images of 32 x 32: **{} s** on two cores",
        *(len(kinds), len(own["rows"]) // len(kinds), own["images"], own["seconds"]),
    )
    yield "images of 32 x 32", Cited("CIFAR-10")
    yield "imagecorruptions 1.1.2", Cited("its own environment, as the page says")
    yield "numpy 1.26, scikit-image 0.20", Cited("its own environment, as the page says")
    yield (
        "{} of the images and scaled: {} s, **{}x**",
        *(own["peer_images"], own["peer_seconds"], own["times_faster"]),
    )
    gain = {name: row["peer_seconds"] - row["seconds"] for name, row in own["rows"].items()}
    most = sum(s for name, s in gain.items() if name.startswith(("glass_blur", "frost")))
    yield "{} % of the gain are glass blur", 100 * most / sum(gain.values())


@claims(PAGE, "Streamed images (`bench_loader.py`)", ["benchmarks/bench_loader.py"])
def loader() -> Iterator[Claim]:
    own = record("loader")
    (speed,) = own["speed"]
    drawn = Rule("benchmarks/imagenet_like.py", "images: int = 2000,")
    yield "2,000 JPEGs of about", drawn
    yield "of about 500 x 400, drawn", Rule("benchmarks/imagenet_like.py", "width: int = 500,")
    yield "in batches of {};", speed["batch"]
    yield "with Pillow 13", Rule("benchmarks/records/loader.json", '"pillow": "13.')
    assert speed["workers"] == 1, "the page says: one worker process"
    passes = speed["passes"]
    yield "{} passes of each in turns", len(passes["steppe"])
    turns = [a / b for a, b in zip(passes["steppe"], passes["torch"], strict=True)]
    assert speed["ratio_in_a_turn"] == statistics.median(turns)
    yield (
        "**{}x** in images per second, the median of the turns ({}x to {}x)",
        *(speed["ratio_in_a_turn"], min(turns), max(turns)),
    )
    few, many = own["memory"]
    yield (
        "an epoch of {} images held {} MB at most and its worker {} MB, one that streams {}",
        *(few["images"], few["process"] / 1e6, few["largest_worker"] / 1e6, many["images"]),
    )
    yield "({} names for each file)", many["images"] / few["images"]
    yield "file) {} MB and {} MB", many["process"] / 1e6, many["largest_worker"] / 1e6


@claims(PAGE, "Removal (`bench_removal.py`)", ["benchmarks/bench_removal.py"])
def removal() -> Iterator[Claim]:
    own = record("removal")
    yield "Two threads, {} repeats in turns", own["speed"]["repeats"]
    script = "benchmarks/bench_removal.py"
    fewer = Rule(script, 'chosen(model, example, "flops", 0.6, 8)')
    yield "at batch 64, 60 % fewer multiply-adds", fewer
    surgery = own["surgery"]
    times = (surgery["choosing_s"], surgery["removing_s"])
    yield "groups and choice {} s, cutting and checking {} s", *times
    yield "outputs equal to {}", surgery["error"]
    yield "(ResNet-20, batch 128, the whole step): **{}**", own["perturbation"]["adasap_over_asam"]
    tries = [one["torch_pruning"]["tries"] for one in own["torch_pruning"].values()]
    yield "met by bisection ({} to {} prunings)", min(tries), max(tries)
    yield "torch-pruning 1.6's own pruner", Rule("pyproject.toml", "torch-pruning>=1.6")
    left = own["torch_pruning"]["resnet20"]["steppe"]["parameters_left"]
    yield "at {} % fewer parameters", 100 * (1 - left)


@claims(
    PAGE, "Weights as functions of other tensors: bench_reparam.py", ["benchmarks/bench_reparam.py"]
)
def reparam() -> Iterator[Claim]:
    yield "{} MB are prunable", record("reparam")["prunable_bytes"] / 1e6


@claims(PAGE, "Model types (`model_types.py`)")
def model_types() -> Iterator[Claim]:
    own = record("model-types")
    outcomes, ways = own["counts"], own["pruned"]
    yield (
        "Of the {} types of transformers {}, {} are pruned ({} a block at a time, {} with the "
        "whole model in memory)",
        len(own["types"]),
        float(own["versions"]["transformers"].rpartition(".")[0]),
        outcomes["pruned"],
        ways["streamed"],
        ways["whole"],
    )
    losses = [one[when] for one in own["types"] for when in ("dense", "sparse") if when in one]
    yield "differ by {} at most", max(abs(loss["plain"] - loss["walk"]) for loss in losses)


@claims(PAGE, "Wrong input (`fuzz.py`)")
def fuzz() -> Iterator[Claim]:
    own = record("fuzz")
    kinds, codes = own["by_kind"], own["by_exit_code"]
    yield "{} inputs over all verbs", own["inputs"]
    yield (
        "arguments ({}), recipes ({}), folders with one file damaged ({})",
        *(kinds[kind] for kind in ("arguments", "recipe", "damage")),
    )
    yield "{} are refused in one line (exit code {})", codes["2"], 2
    yield "{} do their work; no traceback and no exit code {}", codes["0"], 1
    assert own["failures"] == [], "the page says: no traceback"
