"""One of two processes of a streamed run; started by test_streamed_ranks.py."""

import json
import sys
from pathlib import Path

import steppe
from steppe.engine import ranks

if __name__ == "__main__":
    recipe, out = sys.argv[1:]
    steppe.train(json.loads(Path(recipe).read_text()), out)
    ranks.leave(0)
