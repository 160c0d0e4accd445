"""Fills the tables and figures of README and docs/ from the records: ``results_page.py``

    python benchmarks/results_page.py           # writes what has changed, then checks
    python benchmarks/results_page.py --check   # only checks; a line for each figure without source

How to add a table or a figure: CONTRIBUTING.md. Tables and claims lie in ``pages/sections/``.
"""

from __future__ import annotations

import argparse
import sys

from pages import check, page, registry
from pages.sources import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    registry.load()
    if not arguments.check:
        for name in page.pages():
            text = page.read(name)
            filled = check.fill(name, text)
            if filled != text:
                (ROOT / name).write_text(filled, encoding="utf-8")
                print("written:", name)
    faults = [fault for name in page.pages() for fault in check.faults(name, page.read(name))]
    faults += check.unused(page.pages())
    print("\n".join(faults) or "every figure has its source")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
