"""Weights of texts, as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from steppe.core.errors import SteppeError
from steppe.llm.tokens.mixture import mixture


def test_weights_become_shares() -> None:
    for given in ("a.txt=0.7,b.txt=0.3", "a.txt=7, b.txt=3", ["a.txt=0.7", "b.txt=0.3"]):
        assert [(x.source, round(x.share, 9)) for x in mixture(given)] == [
            ("a.txt", 0.7),
            ("b.txt", 0.3),
        ]
    assert [x.source for x in mixture(["only.txt"])] == ["only.txt"]
    assert mixture("me/mine:en:train:body")[0].share == 1.0


def test_a_file_is_a_file_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a=1,b=2.txt"
    path.write_text("x")
    assert [x.source for x in mixture(str(path))] == [str(path)]
    assert [x.source for x in mixture(path)] == [str(path)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a.txt=0.7,b.txt=0", r"positive number; got b\.txt=0"),
        ("a.txt=-1,b.txt=1", r"positive number; got a\.txt=-1"),
        ("a.txt=inf,b.txt=1", "positive number"),
        ("a.txt=1,b.txt", r"has a weight after an equals sign; got b\.txt.*b\.txt=0\.5"),
        (["a.txt", "b.txt"], "has a weight"),
        ("a.txt=much,b.txt=1", "has a weight"),
        ("a.txt=1,a.txt=2", r"a\.txt twice"),
        ([], "needs a text"),
    ],
)
def test_what_is_no_weight(given: str | list[str], said: str) -> None:
    with pytest.raises(SteppeError, match=said) as raised:
        mixture(given)
    assert "\n" not in str(raised.value)
