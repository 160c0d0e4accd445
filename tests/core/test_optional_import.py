import pytest

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require


def test_a_missing_library_is_named_with_the_way_to_get_it():
    with pytest.raises(SteppeError, match=r"juggling needs jugglery.*pip install jugglery"):
        require("no_such_library_here", install="jugglery", purpose="juggling")
