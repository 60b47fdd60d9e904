"""Compiles Python files: run by the interpreter that they are for, which may be another than the server's.

Its argument is a file with lines of source, path that tracebacks will show, and target, separated by tabs. What is
written is what :mod:`py_compile` writes for ``UNCHECKED_HASH``, without a second file that is renamed for each.
"""

import marshal
import sys
from importlib.util import MAGIC_NUMBER, source_hash

UNCHECKED_HASH = (1).to_bytes(4, "little")
"""Flags of PEP 552: the file holds a hash of its source, which is not looked at when a module is imported."""


def main(listing: str) -> None:
    """Compile all; what is no valid module of this version is left out, as by pip."""
    with open(listing, encoding="utf-8") as stream:  # noqa: PTH123 - pathlib takes longer to import than this runs
        lines = stream.read().splitlines()
    for line in lines:
        path, shown, target = line.split("\t")
        with open(path, "rb") as stream:  # noqa: PTH123 - as above
            source = stream.read()
        try:
            code = marshal.dumps(compile(source, shown, "exec", dont_inherit=True))
        except (SyntaxError, ValueError, RecursionError):
            continue
        with open(target, "wb") as stream:  # noqa: PTH123 - as above
            stream.write(MAGIC_NUMBER + UNCHECKED_HASH + source_hash(source) + code)
    sys.stdout.write(sys.implementation.cache_tag)


if __name__ == "__main__":
    main(sys.argv[1])
