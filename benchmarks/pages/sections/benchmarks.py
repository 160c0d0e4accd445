"""docs/benchmarks.md: what the parts cost, beside their peers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell
from ..registry import Claim, claims, table
from ..sources import grouped, record

PAGE = "docs/benchmarks.md"
Rows = list[list["str | Cell"]]


@table("selection")
def selection() -> Table:
    rows: Rows = []
    for one in record("selection")["threshold"]:
        own = {name: ratio["median"] for name, ratio in one["ratios"].items()}
        others = ("topk over ours", "kthvalue over ours", "partition over ours")
        rows.append(
            [
                f"{one['elements'] / 1e6:.0f} M",
                f"{one['sparsity']:.0%}",
                cell("{:.0f}", one["milliseconds"]["ours"]),
                cell("{:.2f}x", own["ours over copy"]),
                *(cell("{:.1f}x", own[name]) for name in others),
            ]
        )
    head = ["weights", "sparsity", "ours, ms", "over a copy (≤ 5)", "topk over ours (≥ 6)"]
    return Table([*head, "kthvalue over ours (≥ 4)", "numpy partition over ours"], rows)


@table("step")
def step() -> Table:
    own = record("step")
    safe = "SAFE step over two plain forward+backward passes and an optimiser step, "
    safe += "dual update included"
    trainer = "the trainer's throughput over a bare PyTorch loop's"
    rows: Rows = [
        [safe, cell("{:.3f}x", own["safe_step_over_two_passes"]), "≤ 1.05x"],
        [
            "SAM step over pytorch-optimizer's",
            cell("{:.3f}x", own["sam_step_over_pytorch_optimizer"]),
            "≤ 1x",
        ],
        [trainer, cell("{:.3f}x", own["trainer_throughput_over_bare_loop"]), "≥ 0.97x"],
        ["one dual update", cell("{:.1f} ms", 1e3 * own["dual_update_seconds"]), ""],
    ]
    return Table(["what", "figure", "target"], rows)


@table("whole-step")
def whole_step() -> Table:
    own = record("whole-step")
    named = {"dense": "dense", "gmp": "GMP", "elsa": "ELSA", "safe": "SAFE"}
    named |= {"dense, mapped": "dense, each large tensor a mapping"}
    rows: Rows = [["plain loop", cell("{:.2f}", statistics.median(own["seconds"]["plain"])), ""]]
    for name, shown in named.items():
        ratios = own["ratios"][name]
        rows.append(
            [
                shown,
                cell("{:.2f}", statistics.median(own["seconds"][name])),
                cell("{:.2f} ({:.2f} to {:.2f})", own["ratio"][name], min(ratios), max(ratios)),
            ]
        )
    return Table(["step", "seconds", "of the plain loop's"], rows)


@table("loader")
def loader() -> Table:
    (speed,) = record("loader")["speed"]
    rows: Rows = []
    for name, shown in {"steppe": "steppe", "torch": "torch's DataLoader"}.items():
        passes = speed["passes"][name]
        median = cell("{:.0f}", speed["images_per_second"][name])
        rows.append([shown, median, cell("{:.0f} to {:.0f}", min(passes), max(passes))])
    return Table(["", "images per second, median", "lowest to highest"], rows)


@claims(PAGE, "A step of a whole language model (`bench_whole_step.py`)")
def whole_step_set_up() -> Iterator[Claim]:
    own = record("whole-step")
    yield "(width {}, vocabulary", own["shape"]["hidden_size"]
    yield (
        "vocabulary {}), {} windows of {} tokens",
        own["shape"]["vocab_size"],
        own["batch"],
        own["window"],
    )


@table("solvers")
def solvers() -> Table:
    names = {"sparsegpt": "SparseGPT", "alps": "ALPS"}
    official = {
        (row["method"], row["size"], row["sparsity"], row["structure"]): row
        for row in record("official-solvers.csv")
    }
    rows: Rows = []
    order = list(names)
    for one in sorted(record("solvers")["solvers"], key=lambda row: order.index(row["method"])):
        key = (one["method"], str(one["size"]), str(one["sparsity"]), one["structure"])
        theirs = {name: float(official[key][name]) for name in ("matmuls", "relative_error")}
        pattern = "" if one["structure"] == "unstructured" else f" {one['structure']}"
        rows.append(
            [
                names[one["method"]],
                str(one["size"]),
                f"{100 * one['sparsity']:.0f} %{pattern}",
                cell("{:.2f}", one["matmuls"]),
                cell("{:.1f}", theirs["matmuls"]),
                cell("{:.1f}x", theirs["matmuls"] / one["matmuls"]),
                cell("{:.1f}", one["peer_matmuls"]),
                cell("{:.6f}", one["relative_error"]),
                cell("{:.6f}", theirs["relative_error"]),
            ]
        )
    head = ["solver", "n", "sparsity", "ours, products", "official", "fewer"]
    return Table([*head, "published rule, same run", "error", "official's"], rows)


@table("memory")
def memory() -> Table:
    names = {"sparsegpt 50%": "SparseGPT 50 %", "wanda 50%": "Wanda 50 %", "wanda 2:4": "Wanda 2:4"}
    rows: Rows = []
    for name, shown in names.items():
        one = record("memory")["arms"][name]
        private = (one["peak_private_mapped_bytes"], one["peak_private_resident_bytes"])
        half = f"{one['sparsity_reached']:g} in each of {one['layers_with_exactly_half']} layers"
        rows.append(
            [
                shown,
                cell("{:.2f} mapped, {:.2f} resident", *(size / 1e9 for size in private)),
                cell("{:.2f}", one["peak_resident_bytes"] / 1e9),
                cell("{:.0f}", one["seconds"]),
                "two of every four" if one["every_four_has_two_zeros"] else half,
            ]
        )
    return Table(["run", "peak private, GB", "peak resident, GB", "seconds", "zeros"], rows)


@table("llm-compressor")
def llm_compressor() -> Table:
    names = {"sparsegpt": "SparseGPT", "wanda": "Wanda"}
    measured = {"perplexity": ".2f", "pruning": ".1f", "process": ".1f", "peak_mib": ".0f"}
    rows: Rows = []
    for one in record("llmcompressor")["rows"]:
        pattern = "50 %" if one["structure"] == "unstructured" else one["structure"]
        cells = [
            cell(f"{{:{form}}}", one[who][key])
            for key, form in measured.items()
            for who in ("steppe", "llmcompressor")
        ]
        rows.append([f"{names[one['method']]} {pattern}", *cells])
    theirs = "llm-compressor"
    head = ["method", "perplexity", theirs, "pruning, s", theirs, "whole process, s", theirs]
    return Table([*head, "peak, MiB", theirs], rows)


@table("corruption-speed")
def corruptions() -> Table:
    kinds = grouped(
        (
            {"kind": name.rpartition("/")[0]} | row
            for name, row in record("corruptions")["rows"].items()
        ),
        "kind",
    )
    rows: Rows = []
    for kind, severities in kinds.items():
        ours, theirs = (sum(row[key] for row in severities) for key in ("seconds", "peer_seconds"))
        cells = [cell("{:.1f}", ours), cell("{:.1f}", theirs), cell("{:.1f}x", theirs / ours)]
        rows.append([str(kind).replace("_", " "), *cells])
    return Table(["corruption", "steppe", "imagecorruptions", ""], rows)


@table("removal-speed")
def removal_speed() -> Table:
    own = record("removal")["speed"]
    dense = [cell("{:.1f}", own["dense_ms"]), "", cell("{:.1f}", own["dense_predicted_ms"]), ""]
    rows: Rows = [["(dense)", "100 %", *dense]]
    names = {"ranked by L2": "L2 norm, over all layers"}
    names |= {"latency_knapsack": "`latency_knapsack` on the table"}
    for name, shown in names.items():
        one = own[name]
        rows.append(
            [
                shown,
                cell("{:.1f} %", 100 * one["flops_left"]),
                cell("{:.1f}", one["ms"]),
                cell("**{:.2f}x**", one["speed_up"]),
                cell("{:.1f}", one["predicted_ms"]),
                cell("{:+.1f} %", 100 * one["prediction_error"]),
            ]
        )
    head = ["channels chosen by", "multiply-adds left", "ms", "of dense", "predicted by the table"]
    return Table([*head, "off"], rows)


@table("torch-pruning")
def torch_pruning() -> Table:
    names = {"resnet20": "ResNet-20, pretrained", "vgg11-bn": "VGG-11, four short epochs"}
    rows: Rows = []
    for name, shown in names.items():
        one = record("removal")["torch_pruning"][name]
        best = max(("steppe", "torch_pruning"), key=lambda who: one[who]["accuracy"][1])
        for who in ("steppe", "torch_pruning"):
            form = "**{:.1f} %**" if who == best == "torch_pruning" else "{:.1f} %"
            rows.append(
                [
                    shown if who == "steppe" else "",
                    who.replace("_", "-"),
                    cell("{:.1f} %", 100 * one[who]["parameters_left"]),
                    cell("{:.1f} %", 100 * one[who]["accuracy"][0]),
                    cell(form, 100 * one[who]["accuracy"][1]),
                    cell("{:.2f}", one[f"{who}_s"]),
                ]
            )
    return Table(["network", "", "parameters left", "accuracy", "batch norm anew", "seconds"], rows)


@table("reparam")
def reparam() -> Table:
    names = {
        "hard mask (at 90 %)": "hard mask",
        "m * w (pilot)": "m * w (`pilot`)",
        "m * w, cut (pilot at 90 %)": "m * w, 90 % cut",
        "soft threshold (STR)": "STR (`soft_threshold`)",
        "proximal L1": "proximal L1 (`lasso`)",
    }
    own: dict[str, Any] = record("reparam")
    size = {name: cell("{:.2f}", number / 1e6) for name, number in own["bytes"].items()}
    plain = cell("1 ({:.0f} ms)", 1e3 * own["seconds"]["plain step"])
    rows: Rows = [["plain", plain, size["plain step"]]]
    for name, shown in names.items():
        rows.append([shown, cell("{:.2f}", own["over_plain"][name]), size[name]])
    return Table(["step", "over a plain one", "MB"], rows)
