"""Products with sparse matrices on a processor, in C: compiled, loaded and called from here.

`interface`, `compiler` and `build` need nothing but Python itself and import each other relatively,
so that the hook that builds a wheel can load them before steppe is installed.
"""
