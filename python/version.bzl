"""The version of the package; `__version__` and CITATION.cff say the same."""

VERSION = "0.1.0"
