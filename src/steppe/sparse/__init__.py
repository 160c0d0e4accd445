"""Zeros that pay: matrices of which only what is kept is stored, read and multiplied.

`Linear` stands where an ``nn.Linear`` stood, `convert` packs the layers of a model, `formats_of`
says what became of each; `steppe.load` reads a language model so.
"""

from __future__ import annotations

from steppe.sparse.convert import LayerFormat, formats_of
from steppe.sparse.format import FORMATS, Format
from steppe.sparse.linear import Linear

__all__ = ["FORMATS", "Format", "LayerFormat", "Linear", "formats_of"]
