"""First the work is saved, then it is decorated: no decoration can cost the work."""

import copy

import pytest

from steppe.core.courtesy import NOT_COMPUTED, courtesy, decorated
from steppe.core.errors import SteppeError


def divides(record):
    record["half"] = 1
    record["ratio"] = 1 / 0


def unwritable(record):
    record["thing"] = object()


def save_into(kept):
    import json

    return lambda record: kept.append(json.loads(json.dumps(record)))


@pytest.mark.parametrize("bad", [divides, unwritable])
def test_a_failure_costs_itself_alone_and_is_one_line(bad, capsys):
    kept = []
    steps = {"the first": bad, "the second": lambda record: record.update(second=2)}
    given = {"weights": 1, "fallbacks": ["a"]}
    before = copy.deepcopy(given)
    record = decorated(given, steps, save_into(kept))
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("steppe: the first: not computed, an internal error (")
    assert "test_courtesy.py:" in said[0] or "encoder.py:" in said[0]
    assert kept[0] == before | {NOT_COMPUTED: ["the first", "the second"]}, "saved before all"
    assert record == kept[-1]
    assert {k: record[k] for k in ("weights", "second", NOT_COMPUTED)} == {
        "weights": 1,
        "second": 2,
        NOT_COMPUTED: ["the first"],
    }
    assert "half" not in record, "half of a decoration is none"
    assert record["fallbacks"] == ["a", said[0].removeprefix("steppe: ")]
    assert given == before


def test_when_all_goes_well_nothing_is_missing():
    kept = []
    record = decorated({"a": 1}, {"b": lambda r: r.update(b=2)}, kept.append)
    assert record == kept[-1] == {"a": 1, "b": 2}


def test_a_users_error_keeps_its_words(capsys):
    with courtesy("the report") as failure:
        raise SteppeError("the disk must have space", got="none")
    assert failure == [
        "the report: not computed, since the disk must have space; got none; what was done before "
        "is saved"
    ]
    assert capsys.readouterr().err == f"steppe: {failure[0]}\n"


def test_stopping_is_no_failure():
    with pytest.raises(KeyboardInterrupt), courtesy("the report"):
        raise KeyboardInterrupt
