"""What a report draws: one file each, found by the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from steppe.core.registry import Registry
from steppe.report.quality import Quality
from steppe.report.record import Record
from steppe.report.svg import Figure
from steppe.report.table import Rows

FIGURES: Registry[type[Drawing]] = Registry("figure", "steppe.report.figures")


class Drawing:
    """A figure that a report may have; its file registers the class."""

    section: ClassVar[str]
    """The part of the page: a key of `steppe.report.document.SECTIONS`."""
    place: ClassVar[int]
    """Figures of a section stand in the order of this number."""
    what: ClassVar[str]
    """It shows."""
    needs: ClassVar[str] = ""
    """What a record must hold for it, for the list of what was left out; "": no loss."""

    of: ClassVar[tuple[Quality, ...]] = ()
    """The qualities of the networks that it may be drawn of; of others nothing is missed. Empty: of
    any."""

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        """Draw it.

        Args:
            records: of the runs.
            rows: the same, averaged over seeds.

        Returns:
            The figure; None where nothing was measured for it.
        """
        raise NotImplementedError

    def hint(self, records: Sequence[Record]) -> str:
        """What stands in the section when it was not drawn, though it could be: a command."""
        return ""
