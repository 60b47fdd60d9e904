"""A node program that runs the Python code in ``options["code"]``, writes what it sets as ``result``, and stays."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any


def attempt(action: Any) -> str:
    """Return how far *action* came: ``done``, or the name of the exception."""
    try:
        action()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the test wants to know
        return type(exc).__name__
    return "done"


def main() -> None:
    text = sys.stdin.read() if sys.argv[1] == "-" else Path(sys.argv[1]).read_text()
    names: dict[str, Any] = {"attempt": attempt, "result": None}
    exec(json.loads(text)["options"].get("code", ""), names)
    sys.stdout.write(f"result {json.dumps(names['result'])}\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main()
