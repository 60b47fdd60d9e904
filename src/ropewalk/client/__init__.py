"""The Python client: what `import ropewalk` offers, without any of the server.

Importing anything below reads Dask's configuration files, as Dask does whenever it is imported. A file that cannot be
read is reported here, by name and line, and without quoting it: it may hold a token.
"""

from __future__ import annotations

import re

from ropewalk.errors import SettingsError

__all__: list[str] = []


def _corrupted(error: ValueError) -> Exception:
    """Return what to raise instead of Dask's own error about a configuration file."""
    text = str(error)
    file = re.search(r"config file at '([^']+)'", text)
    if file is None:
        return error
    # YAML's messages say where a block began, then where it went wrong.
    lines = re.findall(r"line (\d+), column \d+", text)
    return SettingsError(
        f"The configuration file {file[1]} cannot be read"
        + (f": line {lines[-1]} is not valid YAML." if lines else ": it is not YAML with names and values."),
        advice="Correct that file, or remove it and run `ropewalk login` again.",
        field=file[1],
    )


try:
    import dask.config as _  # noqa: F401 - for the files that it reads
except ValueError as _error:
    raise _corrupted(_error) from None
