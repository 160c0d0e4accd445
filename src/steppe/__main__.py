"""``python -m steppe``: the command line."""

from __future__ import annotations

from steppe.cli.main import main

if __name__ == "__main__":
    main()
