import pytest

from steppe.core.errors import SteppeError
from steppe.core.optional_import import optional, require


def test_a_missing_library_is_named_with_the_way_to_get_it():
    with pytest.raises(SteppeError, match=r"juggling needs jugglery.*pip install jugglery"):
        require("no_such_library_here", install="jugglery", purpose="juggling")


@pytest.mark.parametrize("raised", ["RuntimeError", "OSError", "ImportError", "AttributeError"])
def test_one_that_is_there_and_fails_is_named_too(monkeypatch, tmp_path, raised):
    (tmp_path / "broken_library.py").write_text(f"raise {raised}('it does\\nnot fit')")
    monkeypatch.syspath_prepend(tmp_path)
    said = (
        rf"juggling needs jugglery; got {raised}: it does not fit.*pip install --upgrade jugglery"
    )
    with pytest.raises(SteppeError, match=said):
        require("broken_library", install="jugglery", purpose="juggling")
    said = rf"broken_library is installed and does not work \({raised}: it does not fit\): by hand"
    with pytest.warns(UserWarning, match=said):
        assert optional("broken_library", instead="by hand") is None


def test_what_is_not_installed_needs_no_word(recwarn):
    assert optional("no_such_library_here.part", instead="by hand") is None
    assert not recwarn.list
