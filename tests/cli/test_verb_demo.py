"""steppe demo: what the first command shows is what its records say."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from steppe.cli.main import main


def test_demo_with_one_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["demo", "--seeds", "1", "--out", str(tmp_path), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    records = shown["records"]
    levels = {(r["method"], r["sparsity_asked"]) for r in records}
    assert len(levels) == len(records) == 4 * 3 + 1

    def mean(method: str, *path: str) -> float:
        values = []
        for record in records:
            if record["method"] == method:
                value = record
                for key in path:
                    value = value[key]
                values.append(float(value))  # type: ignore[arg-type]
        return statistics.mean(values)

    # one seed says little of a single sparsity; over the three the order is not in doubt
    accuracy = ("sparse", "accuracy")
    assert mean("safe", *accuracy) > mean("gmp", *accuracy) > mean("magnitude", *accuracy)
    assert mean("admm", *accuracy) > mean("gmp", *accuracy)
    hessian = ("evaluations", "sharpness", "top_eigenvalue")
    assert mean("safe", *hessian) < mean("admm", *hessian)
    for record in records:
        zeros = sum(layer["zeros"] for layer in record["layers"])
        total = sum(layer["total"] for layer in record["layers"])
        assert zeros == round(record["sparsity_asked"] * total)
    page = (tmp_path / "report.html").read_text()
    assert all(sentence.split(":")[0] in page for sentence in shown["verdicts"][:1])
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/record.json")}
    with pytest.raises(SystemExit):
        main([*command, "--quiet"])
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps, "what is done is not done twice"


def test_no_seeds_are_no_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--seeds", "0", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "at least one seed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
