"""What is said of a folder's worth: zeros gain nothing as they lie, what is gone does."""

from __future__ import annotations

from pathlib import Path

import pytest

from steppe.cli.gain import say_gain


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"gain": "Gain: none yet", "sparsity_reached": 0.5},
            "no gain in size or speed yet: steppe export a --to compact",
        ),
        ({"gain": "Gain: none; nothing was pruned.", "sparsity_reached": 0.0}, ""),
        ({"gain": "Gain: 20.4% are gone", "removed": {"blocks": []}}, "Gain: 20.4% are gone"),
        ({}, ""),
    ],
)
def test_what_is_said(
    record: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_gain(record, Path("a"), quiet=False)
    assert " ".join(capsys.readouterr().err.split()).startswith(said)
    say_gain(record, Path("a"), quiet=True)
    assert not capsys.readouterr().err
