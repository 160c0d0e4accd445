"""Compile the kernels and say what works here: ``python -m steppe.sparse.native``."""

from __future__ import annotations

from steppe.sparse.native.library import library, why_not


def main() -> None:
    """One line each for what works, and where it comes from."""
    kernels = library()
    if kernels is None:
        print(why_not())
        return
    print(f"works here, best first: {', '.join(kernels.instruction_sets)}")
    print(f"in use: {kernels.instruction_set}")
    for sentence in (*kernels.said, kernels.pool.said):
        print(sentence)


if __name__ == "__main__":
    main()
