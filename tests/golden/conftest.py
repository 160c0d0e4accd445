"""A script and its parts, no tests: see digests.py."""

collect_ignore_glob = ["*.py"]
