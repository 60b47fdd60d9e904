"""Compiles Python files: run by the interpreter that they are for, which may be another than the server's.

Its argument is a file with lines of source, path that tracebacks will show, and target, separated by tabs.
"""

import py_compile
import sys


def main(listing: str) -> None:
    """Compile all; what is no valid module of this version is left out, as by pip."""
    with open(listing, encoding="utf-8") as stream:  # noqa: PTH123 - pathlib takes longer to import than this runs
        lines = stream.read().splitlines()
    for line in lines:
        source, shown, target = line.split("\t")
        try:
            py_compile.compile(
                source, target, shown, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
        except (py_compile.PyCompileError, ValueError, RecursionError):
            continue
    sys.stdout.write(sys.implementation.cache_tag)


if __name__ == "__main__":
    main(sys.argv[1])
