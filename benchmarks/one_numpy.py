"""One measurement, as in one.py, of a program that imports NumPy at its top, as programs for numbers do."""

import numpy  # noqa: F401

from benchmarks import one

if __name__ == "__main__":
    one.main()
