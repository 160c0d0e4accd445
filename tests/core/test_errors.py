"""One sentence per error."""

from steppe.core.errors import SteppeError, unknown


def test_one_line_with_all_that_is_known():
    error = SteppeError("a rule", got="two\nlines", consequence="it stops", way_out="mend it")
    assert str(error) == "a rule; got two lines. It stops. Way out: mend it"
    assert isinstance(error, ValueError)
    assert str(SteppeError("a rule", got=0)) == "a rule; got 0"


def test_unknown_names_the_nearest():
    text = str(unknown("method", "gpm", ["gmp", "safe"]))
    assert "did you mean gmp?" in text
    assert "known: gmp, safe" in text
    assert "did you mean" not in str(unknown("method", "zzzz", ["gmp", "safe"]))
