"""Zeros that pay: matrices of which only what is kept is stored, read and multiplied.

`Linear` stands where an ``nn.Linear`` stood, `Convolution` where an ``nn.Conv2d`` did; `convert`
packs the layers of a model, `formats_of` says what became of each; `steppe.load` reads a language
model so.
"""

from __future__ import annotations

from steppe.sparse.conversion import convert
from steppe.sparse.convolution import Convolution
from steppe.sparse.format import FORMATS, Format
from steppe.sparse.linear import Linear
from steppe.sparse.record import LayerFormat, formats_of

__all__ = ["FORMATS", "Convolution", "Format", "LayerFormat", "Linear", "convert", "formats_of"]
