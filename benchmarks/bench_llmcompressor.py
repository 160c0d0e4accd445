"""SparseGPT and Wanda beside llm-compressor's: perplexity, seconds, peak memory.

    python -m venv PEER && PEER/bin/pip install llmcompressor
    python benchmarks/bench_llmcompressor.py --peer-python PEER/bin/python --model DIR \
        --calibration validation.txt --text test.txt

Both prune the same model with the same calibration tokens, each in a process of its own, taking
turns; both results are measured by our perplexity. Seconds are wall time of the whole process
(``process``: imports, loading, pruning, saving) and of what the tool itself calls pruning
(``pruning``); medians over the repeats. On a machine that others use too, the process' CPU seconds
(``cpu``, with --threads 1) say more. Memory is the process' VmHWM, its peak resident set.
Without --peer-python it says so and does nothing: the peer needs an environment of its own,
since it asks for another transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from record_file import add_record, write_record
from safetensors.torch import save_file

from steppe.llm.calibration_windows import windows
from steppe.llm.load import load, tokenizer_of
from steppe.llm.perplexity import perplexity

HERE = Path(__file__).resolve().parent
CASES = [
    ("sparsegpt", "unstructured"),
    ("sparsegpt", "2:4"),
    ("wanda", "unstructured"),
    ("wanda", "2:4"),
]


def watch(process: subprocess.Popen[Any]) -> tuple[int, float]:
    """Waits for a process; its VmHWM in KiB, read every 10 ms until it ends, and CPU seconds."""
    peak, pid = 0, 0
    while not pid:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            status = ""
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.01)
        pid, code, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(code)
    return peak, used.ru_utime + used.ru_stime


def timed(command: list[str], threads: int) -> dict[str, Any]:
    """Runs a command; its last line of output as JSON, wall seconds and peak memory."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, text=True, env=environment)
        peak, cpu = watch(process)
        seconds = time.perf_counter() - begun
        for file in (out, err):
            file.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}\n{err.read()[-2000:]}")
        said = json.loads(out.read().strip().splitlines()[-1])
    return {"said": said, "process": seconds, "cpu": cpu, "peak_mib": peak / 1024}


def commands(arguments: Any, tokens: Path, case: tuple[str, str], out: Path) -> dict[str, Any]:
    """The command line of each side, by its name."""
    method, structure = case
    both = ["--method", method, "--structure", structure, "--sparsity", "0.5"]
    shape = ["--samples", str(arguments.samples), "--window", str(arguments.window)]
    model, cpu = str(arguments.model), ["--device", "cpu", "--measure", "0"]
    ours = [sys.executable, "-m", "steppe.cli.main", "prune", model, *both, *shape, *cpu]
    peer = [arguments.peer_python, str(HERE / "llmcompressor_peer.py"), "--model", model, *both]
    return {
        "steppe": [*ours, "--calibration", str(tokens), "--out", str(out), "--json", "--quiet"],
        "llmcompressor": [*peer, "--tokens", str(tokens), "--out", str(out)],
    }


def quality(folder: Path, arguments: Any) -> dict[str, Any]:
    """Perplexity in float32 and the share of zeros in the decoder blocks' matrices."""
    for file in arguments.model.glob("tokenizer*"):
        if not (folder / file.name).exists():
            shutil.copy(file, folder)
    model, tokenizer = load(str(folder))
    found = perplexity(model, arguments.text, tokenizer=tokenizer, window=arguments.window)
    blocks = [w for n, w in model.named_parameters() if "layers." in n and w.ndim == 2]
    zeros = sum(int((w == 0).sum()) for w in blocks) / sum(w.numel() for w in blocks)
    return {"perplexity": found["perplexity"], "zeros": zeros}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="the Python of an environment with llmcompressor")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calibration", type=Path, help="a text")
    parser.add_argument("--text", type=Path, help="the text that perplexity is measured on")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    add_record(parser, "llmcompressor")
    arguments = parser.parse_args()
    if None in (arguments.peer_python, arguments.model, arguments.calibration, arguments.text):
        print("skipped: needs --peer-python, --model, --calibration and --text, see --help")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = windows(
            arguments.calibration,
            tokenizer_of(arguments.model),
            samples=arguments.samples,
            window=arguments.window,
        )
        tokens = folder / "tokens.safetensors"
        save_file({"tokens": chosen.tokens}, tokens)
        record: dict[str, Any] = {
            "model": arguments.model.name,
            "text": arguments.text.name,
            "calibration": chosen.description | {"source": arguments.calibration.name},
            "dense": quality(Path(shutil.copytree(arguments.model, folder / "dense")), arguments),
            "rows": [],
            "repeats": arguments.repeats,
            "threads": arguments.threads,
            "processor": platform.processor() or platform.machine(),
            "date": date.today().isoformat(),
        }
        for case in CASES:
            runs, found = both(case, tokens, folder, arguments)
            record["rows"].append(summary(case, runs, found))
            record["versions"] = {side: own[0]["said"]["versions"] for side, own in runs.items()}
            record["load_average"] = os.getloadavg()[2]
            # after each case: what is measured is not lost
            write_record(arguments.record, record)
            print(line(record["rows"][-1]), flush=True)


def both(
    case: tuple[str, str], tokens: Path, folder: Path, arguments: Any
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """One case on both sides, taking turns: what each run took, and what each side's first gave."""
    runs: dict[str, list[dict[str, Any]]] = {"steppe": [], "llmcompressor": []}
    found = {}
    for repeat in range(arguments.repeats):
        order = list(runs) if repeat % 2 == 0 else list(runs)[::-1]
        for side in order:
            out = folder / f"{side}-{case[0]}-{case[1].replace(':', '-')}-{repeat}"
            command = commands(arguments, tokens, case, out)[side]
            runs[side].append(timed(command, arguments.threads))
            if repeat == 0:
                found[side] = quality(out, arguments)
            shutil.rmtree(out)
    return runs, found


def summary(case: tuple[str, str], runs: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """One case: medians of each side, and the median of the paired ratios of time."""
    row: dict[str, Any] = {"method": case[0], "structure": case[1]}
    for side, own in runs.items():
        row[side] = found[side] | {
            "process": statistics.median(r["process"] for r in own),
            "cpu": statistics.median(r["cpu"] for r in own),
            "pruning": statistics.median(r["said"]["seconds_pruning"] for r in own),
            "peak_mib": statistics.median(r["peak_mib"] for r in own),
        }
    pairs = list(zip(runs["steppe"], runs["llmcompressor"], strict=True))
    for key in ("process", "cpu"):
        row[f"{key}_ratio"] = statistics.median(a[key] / b[key] for a, b in pairs)
    row["memory_ratio"] = row["steppe"]["peak_mib"] / row["llmcompressor"]["peak_mib"]
    return row


def line(row: dict[str, Any]) -> str:
    """A row of the table in docs/benchmarks.md."""
    cells = [f"| {row['method']} | {row['structure']} "]
    for side in ("steppe", "llmcompressor"):
        own = row[side]
        cells.append(
            f"| {own['perplexity']:.3f} | {own['process']:.1f} ({own['pruning']:.1f}) "
            f"| {own['cpu']:.1f} | {own['peak_mib']:.0f} "
        )
    ratios = (row[f"{key}_ratio"] for key in ("process", "cpu", "memory"))
    return "".join(cells) + "".join(f"| {ratio:.2f}x " for ratio in ratios) + "|"


if __name__ == "__main__":
    main()
