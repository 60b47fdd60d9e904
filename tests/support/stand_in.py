"""A node program that starts in milliseconds and misbehaves on demand; run with the path of a configuration.

``options`` may have: ``exit`` (status to end with at once), ``deaf`` (ignore SIGTERM), ``child`` (start a process that
is deaf and goes on after its parent), ``clear`` (that child has no environment).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


def main() -> None:
    options = json.loads(Path(sys.argv[1]).read_text())["options"]
    if options.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.get("child"):
        environ: dict[str, str] | None = {} if options.get("clear") else None
        child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, env=environ)
        assert child.stdout is not None
        child.stdout.readline()
        Path("child").write_text(str(child.pid))
    Path("environ").write_text(json.dumps(dict(os.environ)))
    Path("fds").write_text(
        json.dumps(sorted(str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in range(64) if _open(fd)))
    )
    sys.stdout.write("started\n")
    sys.stdout.flush()
    if "exit" in options:
        sys.exit(options["exit"])
    signal.pause()


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
