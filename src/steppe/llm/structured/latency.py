"""How long a language model of any shape writes here: a table of measured blocks, in a file.

The time of a text is that of the prompt, which gives the first token, and of a step for each
further token. Both are a part for the blocks, and a rest: embedding, last norm, head, and what
generate itself does. These choices were made for what is predicted:

- what is timed is ``generate``, as `steppe.llm.generation_worker` times it, of models of few blocks
  with random weights. So the cost of Python and of the cache is in it, and no block's arguments
  are made up. What such a model takes without any block is told by the narrowest models of one
  and of two blocks, whose weights are at hand in both: 2 T(1) - T(2). Of the whole width one block
  would stay in the processor's cache where several do not, and the difference would say too much.
- as many different blocks are timed together as fill the cache twice, or all if they are fewer:
  between two tokens they stay there no more than those of the whole model do. So the memory that is
  needed is that of a few blocks. Of a small model a few blocks stay in the cache where all do not:
  so four depths are measured, and what a width gains is in proportion.
- the blocks are timed with a vocabulary of 64 words: a large head takes longer than a block, and
  its noise would be the block's. The head is in the rest, of which there is one.
- attention and feed-forward part run one after the other, so their times add up: each is measured
  over its own widths, the other being whole. Between two widths a time is a straight line.
- everything is measured in several passes, and the median of the passes counts: another program
  slows a machine down for seconds, and so only some of them.
"""

from __future__ import annotations

import json
import shlex
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from steppe.core.errors import SteppeError
from steppe.core.serialization import write_text
from steppe.llm.structured.shape import Shape
from steppe.removal.cost.latency import between

Which = Literal["prompt", "token"]
WHICH: tuple[Which, Which] = ("prompt", "token")
_WHOLE = "whole vocabulary"


@dataclass(frozen=True)
class Times:
    """What a text takes.

    Args:
        prompt: ms until the first token.
        token: ms for each further one.
        tokens: that are written in all.

    Example:
        >>> text = Times(100.0, 20.0, 64)
        >>> text.total, text.tokens_per_second
        (1360.0, 50.0)
    """

    prompt: float
    token: float
    tokens: int

    @property
    def total(self) -> float:
        """Milliseconds of the whole text."""
        return self.prompt + (self.tokens - 1) * self.token

    @property
    def tokens_per_second(self) -> float:
        """Written after the first."""
        return 1000 / self.token


@dataclass
class GenerationTable:
    """Measured times of few blocks of a language model, at each width.

    Args:
        conditions: see `steppe.removal.forward_timing.conditions`; also ``cache``, the bytes that
            the processor keeps at hand, the version of transformers and the model's ``family``.
        prompt: tokens that are read first.
        tokens: that are written.
        shape: of the whole model.
        axes: ``neurons``, ``heads``: the widths that are measured, ascending.
        points: name (see `name_of`) -> ``prompt``, ``token``: ms, one number for each pass.
        path: its file, or None.
    """

    conditions: dict[str, Any]
    prompt: int
    tokens: int
    shape: Shape
    axes: dict[str, list[int]]
    points: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def read(cls, path: Path | str) -> GenerationTable:
        """Read a table from its file.

        Raises:
            SteppeError: there is no such file, or it is no such table.
        """
        path = Path(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            shape = Shape(**stored["shape"] | {"cuts": tuple(stored["shape"]["cuts"])})
            table = cls(**stored | {"shape": shape, "path": path})
            for point in table.points.values():
                if any(not t > 0 for which in ("prompt", "token") for t in point[which]):
                    raise ValueError("a time is none")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise SteppeError(
                "a latency table of a language model is a file that steppe latency wrote",
                got=f"{path} ({type(error).__name__})",
                way_out=f"steppe latency MODEL --out {shlex.quote(str(path))}",
            ) from None
        return table

    def write(self) -> None:
        """Write the table to its file, completely or not at all."""
        if self.path is not None:
            plain = {k: v for k, v in vars(self).items() if k != "path"}
            write_text(self.path, json.dumps(plain | {"shape": asdict(self.shape)}, indent=1))

    def check(self, other: GenerationTable) -> None:
        """Whether two tables are of one model, machine and text.

        Raises:
            SteppeError: they are not.
        """
        self.check_model(other.shape)
        mine, its = ({**x.conditions, "text": x.text, "widths": x.axes} for x in (self, other))
        for name, value in its.items():
            if mine.get(name) != value:
                raise SteppeError(
                    f"a latency table holds for the {name} that it was measured with",
                    got=f"{mine.get(name)} in {self.path or 'the table'}, {value} here",
                    way_out="measure into another file: --out ANOTHER.json",
                )

    def check_model(self, shape: Shape) -> None:
        """Whether the table is of a model of this shape.

        Raises:
            SteppeError: it is of another.
        """
        if replace(shape, width=self.shape.width) != self.shape:
            raise SteppeError(
                "a latency table is of the model whose time is predicted",
                got=f"{self.path or 'a table'} of {self.shape.said()}, for {shape.said()}",
                way_out="steppe latency MODEL --out ANOTHER.json",
            )

    def times(self, shape: Shape) -> Times:
        """What a text takes with a model of another shape.

        Args:
            shape: as that of the whole model, with fewer blocks, neurons or heads.

        Raises:
            SteppeError: a width is smaller than those that were measured, or none is known.
        """
        for kind, axis in self.axes.items():
            if not axis[0] <= getattr(shape, kind) <= axis[-1]:
                raise SteppeError(
                    "a time is known between the widths that were measured",
                    got=f"{getattr(shape, kind)} {kind}, measured: {axis[0]} to {axis[-1]}",
                    way_out="a shape of more, or steppe bench of the model itself",
                )
        prompt, token = (
            self.rest(w) + self._deep(w, shape.blocks) * self.block(w, shape) / self._whole(w)
            for w in WHICH
        )
        return Times(prompt, token, self.tokens)

    def block(self, which: Which, shape: Shape) -> float:
        """Milliseconds of one block among many: those of a whole one, less each part's gain."""
        whole = self._whole(which)
        gains = [whole - self._along(which, k, getattr(shape, k)) for k in self.axes]
        return whole - sum(gains)

    def rest(self, which: Which) -> float:
        """Milliseconds of all that is no block, however many blocks there are."""
        blocks = self.stacked(self.shape)
        text = self._time(which, name_of(blocks, self.shape, whole=True))
        return text - self._deep(which, blocks)

    def stacked(self, shape: Shape) -> int:
        """Blocks of a shape that are timed together: they fill the cache twice, or are all."""
        room = 2 * int(self.conditions["cache"])
        return min(shape.blocks, max(2, -(-room // (shape.block * shape.width))))

    def wanted(self) -> list[tuple[str, Shape, bool]]:
        """Every point: its name, the shape of the model, whether with the whole vocabulary."""
        widths = [self.shape.resized(**{k: w}) for k, axis in self.axes.items() for w in axis]
        shapes = [s.resized(blocks=self.stacked(s)) for s in (self.shape, *widths)]
        shapes += [self.shape.resized(blocks=n) for n in self._depths]
        if self.shape.blocks > 1:
            shapes += [self._narrowest.resized(blocks=n) for n in (1, 2)]
        named = {name_of(s.blocks, s): (s, False) for s in shapes}
        named[name_of(shapes[0].blocks, shapes[0], whole=True)] = shapes[0], True
        return [(name, *point) for name, point in named.items()]

    @property
    def text(self) -> str:
        """What is read and written, in words."""
        return f"a prompt of {self.prompt} and {self.tokens} tokens"

    @property
    def spread(self) -> float:
        """The largest difference between passes, as a share of the median."""
        series = [values for point in self.points.values() for values in point.values()]
        return max(((max(s) - min(s)) / statistics.median(s) for s in series), default=0.0)

    def _along(self, which: Which, kind: str, width: int) -> float:
        low, high, up = between(self.axes[kind], width)
        ends = (self._measured(which, self.shape.resized(**{kind: w})) for w in (low, high))
        below, above = ends
        return below + up * (above - below)

    def _whole(self, which: Which) -> float:
        return self._measured(which, self.shape)

    @property
    def _depths(self) -> list[int]:
        """Numbers of blocks that are measured, up to as many as are timed together."""
        most = self.stacked(self.shape)
        return sorted({max(round(most * quarter / 4), 1) for quarter in (1, 2, 3, 4)})

    def _deep(self, which: Which, blocks: int) -> float:
        """So many blocks of the whole width; more than were timed together are in proportion."""
        depths = self._depths
        if blocks >= depths[-1]:
            return blocks * self._whole(which)
        low, high, up = between([0, *depths], blocks)
        below, above = (
            self._time(which, name_of(n, self.shape)) - self._start(which) if n else 0.0
            for n in (low, high)
        )
        return below + up * (above - below)

    def _measured(self, which: Which, shape: Shape) -> float:
        """One block, of a shape that was measured."""
        blocks = self.stacked(shape)
        return (self._time(which, name_of(blocks, shape)) - self._start(which)) / blocks

    def _start(self, which: Which) -> float:
        """What a model of 64 words takes without any block, by those of one and of two."""
        if self.shape.blocks == 1:  # then it counts as the block's
            return 0.0
        one, two = (self._time(which, name_of(n, self._narrowest)) for n in (1, 2))
        return 2 * one - two

    @property
    def _narrowest(self) -> Shape:
        return self.shape.resized(**{kind: axis[0] for kind, axis in self.axes.items()})

    def _time(self, which: Which, name: str) -> float:
        times = self.points.get(name, {}).get(which)
        if not times:
            raise SteppeError(
                "a latency needs every width's time",
                got=f"{self.path or 'a table'} without {name}",
                consequence="its measuring was stopped",
                way_out="the same steppe latency again, which goes on where it was",
            )
        return statistics.median(times)


def name_of(blocks: int, shape: Shape, whole: bool = False) -> str:
    """What a point is called.

    Example:
        >>> tiny = Shape(blocks=2, neurons=20, heads=2, queries_per_key=1, head_size=6, hidden=12,
        ...     vocabulary=26)
        >>> name_of(1, tiny), name_of(2, tiny, whole=True)
        ('1 blocks, 20 neurons, 2 heads', '2 blocks, 20 neurons, 2 heads, whole vocabulary')
    """
    return shape.resized(blocks=blocks).key + (f", {_WHOLE}" if whole else "")
