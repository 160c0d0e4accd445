"""What flows into each matrix of a module, squared: E[x_j^2] of every input j."""

from __future__ import annotations

from steppe.score.input_squares.squares import Reading as Reading
from steppe.score.input_squares.squares import squares_of as squares_of
