"""README and the pages of docs/ that are no lists of results: the figures that they quote."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from ..registry import Cited, Claim, Rule, claims
from ..sources import papers, read, record


@claims("README.md", "")
def picture() -> Iterator[Claim]:
    yield (
        "with 50, 60 and 70 percent zeros",
        Rule("benchmarks/picture.py", "PERCENT = (50, 60, 70)"),
    )


@claims("README.md", "Install, and see it first")
def demo() -> Iterator[Claim]:
    levels = [100 * s for s in read("src/steppe/cli/demo.yaml")["sparsities"]]
    yield "ADMM and SAFE at {}, {} and {} % zeros", *levels


@claims("README.md", "What to expect")
def expect() -> Iterator[Claim]:
    yield "a lower bound above 1.05 times", Rule("src/steppe/core/speed.py", "LEAST = 1.05")
    yield "**This is version 0.1.**", Rule("pyproject.toml", 'version = "0.1.')


@claims("docs/channels.md", "Latency")
def latency() -> Iterator[Claim]:
    runs = [run for name, run in record("channel-speed").items() if name.startswith("resnet20")]
    last, first = (
        [run[f"{layout}, dense ms"] for run in runs] for layout in ("channels last", "contiguous")
    )
    yield (
        "a dense ResNet-20 takes {} to {} ms so and {} to {} ms in the contiguous format",
        *(min(last), max(last), min(first), max(first)),
    )
    speed = record("removal")["speed"]
    norm, chosen = (speed[name]["speed_up"] for name in ("ranked by L2", "latency_knapsack"))
    yield "made ResNet-56 {} times as fast, channels chosen by the table {} times", norm, chosen


@claims("docs/evaluation.md", "Perplexity")
def perplexity() -> Iterator[Claim]:
    yield "the small LLaMA of our tests has {} on the test text", record("llm-table")["dense"]


@claims("docs/evaluation.md", "Calibration windows")
def large() -> Iterator[Claim]:
    yield "files larger than 2 MiB", Rule("src/steppe/llm/text_files.py", "LARGE = 2 << 20")


@claims("docs/methods.md", "mlprune")
def compensation() -> Iterator[Claim]:
    levels = [row for row in record("compensation") if row["sparsity"] in (0.3, 0.5, 0.6, 0.7)]
    magnitude, without, with_it = (
        [100 * row["accuracies"][column] for row in levels] for column in (0, 1, 2)
    )
    yield (
        "from {}, {}, {}, {} % to {}, {}, {}, {} %; plain magnitude has {}, {}, {}, {} %",
        *(*without, *with_it, *magnitude),
    )


@claims("docs/methods.md", "alps")
def alps() -> Iterator[Claim]:
    rows = [row for row in record("solvers")["solvers"] if row["method"] == "alps"]
    lower = [1 - row["relative_error"] / row["peer_relative_error"] for row in rows]
    yield (
        "the error is {} % below that of their rule on average, between {} and {} %",
        *(100 * share for share in (statistics.mean(lower), min(lower), max(lower))),
    )


@claims("docs/methods.md", "greg1")
def greg() -> Iterator[Claim]:
    yield "1000 times larger than the others", Cited("Wang et al., ICLR 2021, the authors' code")


@claims("docs/papers.md", "AdaSAP")
def dense_networks() -> Iterator[Claim]:
    dense = [
        (row["setting"], row["value"])
        for row in [*papers("AdaSAP", "1"), *papers("AdaSAP", "12")]
        if (row["method"], row["quantity"]) == ("dense", "accuracy")
    ]
    accuracy = {setting.partition(",")[0]: float(value) for setting, value in dense}
    names = ("ResNet-50", "MobileNetV1", "MobileNetV2")
    yield "(ResNet-50 {} %, MobileNetV1 {} %, V2 {} %)", *(accuracy[name] for name in names)


@claims("docs/recipes.md", "Write one")
def precision() -> Iterator[Claim]:
    rule = Rule("src/steppe/engine/precision.py", "MARGIN = 1.1")
    yield "channels last, or bf16, is 1.1 times as fast", rule


@claims("docs/robustness.md", "Corruptions")
def corruption_error() -> Iterator[Claim]:
    yield "the paper prints 100 times that", Cited("Hendrycks and Dietterich, ICLR 2019, Table 1")


@claims("docs/robustness.md", "Published images")
def variants() -> Iterator[Claim]:
    table_8 = Cited("the AdaSAP paper, Table 8: 64.80 and 79.00 % of the dense network")
    yield "the variants differ in difficulty by 14 points", table_8


@claims("docs/scale.md", "What needs memory")
def solver() -> Iterator[Claim]:
    def moments(columns: int) -> float:  # one float32 matrix
        return 4.0 * columns**2

    yield "a matrix of second moments of {} MB", moments(8192) / 1e6
    yield "SparseGPT needs {} GB beside it", 3 * moments(8192) / 1e9
    wide = moments(28672) / 1e9
    yield "these are {} and {} GB. Wanda and magnitude need no such matrix", wide, 3 * wide


@claims("docs/train.md", "Methods that read the accuracy")
def product() -> Iterator[Claim]:
    pilot = record("reparam")["over_plain"]["m * w (pilot)"]
    yield "A step costs [{} times a plain one and one more copy of the weights]", pilot


@claims("docs/whole-models.md", "Memory")
def whole_training() -> Iterator[Claim]:
    found = record("whole-memory")
    plans = {name: parts["all"] for name, parts in found["planned_bytes"].items()}
    peak = found["peak_memory_bytes"]
    assert peak < 20e9
    yield (
        "Measured: one step of ELSA on {} million weights, with `adam8bit`, `state_dtype=bfloat16` "
        "and `--checkpointing`, peaks at {} GB with all that the process loads",
        found["weights"] / 1e6,
        peak / 1e9,
    )
    yield (
        "planned are {} GB; {} GB with Adam in float32",
        plans["adam8bit"] / 1e9,
        plans["adam"] / 1e9,
    )


@claims("docs/images.md", "")
def decoded() -> Iterator[Claim]:
    levels = 224 * 224 * 3
    yield "ImageNet would take {} GB in each process", 1_281_167 * levels / 1e9
    yield "more than 4 GiB decoded", Rule("src/steppe/vision/data/on_disk.py", "MEMORY = 4 * 2**30")


@claims("docs/images.md", "What can be streamed")
def kept_on_the_way() -> Iterator[Claim]:
    window = Rule("src/steppe/vision/data/row_groups.py", "WINDOW_BYTES = 128 * 2**20")
    yield "as many groups as 128 MiB hold", window
    spool = Rule("src/steppe/vision/data/places.py", "SPOOL_BYTES = 512 * 2**20")
    yield "a folder of at most 512 MiB", spool


@claims("docs/images.md", "How memory grows")
def streamed_batches() -> Iterator[Claim]:
    yield "has\n{} MB as levels", 256 * 224 * 224 * 3 / 1e6
    # a window, and the next one
    window = Rule("src/steppe/vision/data/row_groups.py", "WINDOW_BYTES = 128 * 2**20")
    yield "keeps up to 256 MiB of row groups", window


@claims("docs/detection.md", "Data")
def detectors_in_memory() -> Iterator[Claim]:
    kept = Rule("src/steppe/vision/detection/data/__init__.py", "KEPT_BYTES = 2**30")
    yield "would take more than 1 GiB", kept


@claims("docs/language-models.md", "Smaller, not only sparse")
def kept_of_all() -> Iterator[Claim]:
    whole = record("latency")["tiny-llama"]["arms"]["dense"]["parameters"]
    linear = 6 * (3 * 672 + 4 * 256) * 256
    yield "tokens keeps {} % of them at 0.25", 100 * (1 - 0.25 * linear / whole)
