"""What steppe warns of: sentences on something that is other than one may think."""

from __future__ import annotations

import warnings


class Note(UserWarning):
    """A sentence of steppe's own; the command line shows it as a note, without a line of code.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always", Note)
        ...     note("3 files of kind .txt are left out")
        >>> [str(one.message) for one in seen]
        ['3 files of kind .txt are left out']
    """


def note(text: str, stacklevel: int = 1) -> None:
    """Warn of something.

    Args:
        text: a sentence.
        stacklevel: whose line is meant, as of `warnings.warn`: 1 is the one that calls this.
    """
    warnings.warn(text, Note, stacklevel=stacklevel + 1)
