"""One reader under atheris; run as ``python -m fuzz.reader_target READER [libFuzzer's options and folders]``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["sta_kernels", "yaml", "json"]):
    from fuzz.readers import READERS, accepts

if __name__ == "__main__":
    reader = READERS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: accepts(reader, data) and None)
    atheris.Fuzz()
