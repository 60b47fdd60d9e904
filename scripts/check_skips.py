"""Tell which tests were skipped and why; in CI, a skip that is not on the list is a failure.

Usage: check_skips.py JUNIT_XML ALLOWED

The list has one pattern a line, ``tests.unit.test_x::test_name``, ``*`` for anything, then `` # `` and the reason.
"""

from __future__ import annotations

import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def skipped(report: Path) -> dict[str, str]:
    """Return the reason of each skipped test; expected failures are not skips."""
    found = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest's own report
        for skip in case.findall("skipped"):
            if skip.get("type") == "pytest.skip":
                found[f"{case.get('classname')}::{case.get('name')}"] = skip.get("message") or ""
    return found


def allowed(listing: str) -> list[re.Pattern[str]]:
    """Parse the list; an entry without a reason is an error."""
    patterns = []
    for line in listing.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.partition(" # ")
        if not reason.strip():
            raise SystemExit(f"allowed-skips: no reason beside {pattern.strip()!r}")
        patterns.append(re.compile(re.escape(pattern.strip()).replace(r"\*", ".*")))
    return patterns


def main(report: Path, listing: Path) -> int:
    """Print what is not on the list; return the exit status."""
    if not report.exists():
        return 0  # pytest did not get as far as a report, and has said why
    patterns = allowed(listing.read_text() if listing.exists() else "")
    unexpected = {
        name: reason for name, reason in skipped(report).items() if not any(p.fullmatch(name) for p in patterns)
    }
    if not unexpected or not os.environ.get("CI"):
        return 0
    print(f"{len(unexpected)} skipped tests are not on {listing}; in CI this is a failure:", file=sys.stderr)
    for name, reason in sorted(unexpected.items()):
        print(f"  {name}: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
