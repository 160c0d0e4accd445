"""Several commands of steppe, one after another in one process, as a file of JSON lists them.

Starting two ranks and importing torch takes longer than what most tests run there.

    torchrun --nproc-per-node 2 several.py COMMANDS.json
"""

import json
import sys
from pathlib import Path

from steppe.cli.main import main
from steppe.engine import ranks

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        try:
            main(arguments)
        except SystemExit as ended:
            if ended.code:
                raise
    ranks.leave(0)
