"""``post_build``: commands that run in the image while it is made, in namespaces of their own.

What they leave behind becomes the last layer. They run as a user without rights on this machine, who is root only among
themselves; they see the image's files and nothing else, and no network unless the operator allows it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ropewalk.errors import FixItError
from ropewalk.server.environments import uv
from ropewalk.server.environments.oci import sandbox_program
from ropewalk.server.environments.oci.blobs import Blobs, disk_errors
from ropewalk.server.environments.oci.layers import Layer, pack
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.unpack import changes, snapshot, unpack

__all__ = ["run_commands"]

COMMAND_SECONDS = 1800.0
"""For each command."""
_NAMED = 100
"""Letters of a command that an error names."""
_PROGRAM = Path(sandbox_program.__file__)
_HIDDEN = ("proc", "dev", "sys", "tmp", "etc/resolv.conf")
"""What is put there for the commands, or is thrown away with them."""


async def run_commands(
    commands: Sequence[str],
    layers: Sequence[str],
    blobs: Blobs,
    scratch: Path,
    *,
    environ: Mapping[str, str],
    platform: Platform,
    network: bool,
    say: Callable[[str], None],
) -> Layer:
    """Run *commands* in the image of *layers* (digests); return what they changed as a layer.

    Raises:
        FixItError: One failed, or they cannot be run here.
    """
    if not platform.is_host:
        raise _impossible(
            f"they are for {platform}, and the server is not", "Choose nodes of the server's architecture"
        )
    with disk_errors(), tempfile.TemporaryDirectory(dir=scratch, prefix="sandbox-") as name:
        root = Path(name) / "root"
        root.mkdir()
        await asyncio.to_thread(unpack, [blobs.path(digest) for digest in layers], root)
        try:
            await asyncio.to_thread(_give, root)
        except OSError as exc:
            raise _impossible(
                f"the server's user may not give files to user {sandbox_program.USER} ({exc.strerror})",
                "Let the server run as a plain user, or as root outside of user namespaces",
            ) from None
        before = await asyncio.to_thread(snapshot, root)
        for command in commands:
            say(f"$ {command}")
            await _run(command, root, environ, network=network, say=say)
        entries = await asyncio.to_thread(changes, root, before, _HIDDEN)
        return await asyncio.to_thread(pack, "post_build", entries, blobs)


async def _run(
    command: str, root: Path, environ: Mapping[str, str], *, network: bool, say: Callable[[str], None]
) -> None:
    order = root.parent / "order.json"
    wish = {"root": str(root), "command": command, "environ": dict(environ), "network": network}
    order.write_text(json.dumps(wish), "utf-8")
    done = await uv.run(
        [sys.executable, "-I", "-S", str(_PROGRAM), str(order)],
        environ={"LANG": "C.UTF-8"},
        cwd=root.parent,
        seconds=COMMAND_SECONDS,
        say=say,
    )
    if done.status == sandbox_program.CANNOT:
        raise _impossible(
            f"the system lets the server make no sandbox ({done.errors.strip()[-300:]})",
            "An operator allows user namespaces to the server's user (sysctl user.max_user_namespaces, and on Ubuntu "
            "kernel.apparmor_restrict_unprivileged_userns=0)",
        )
    if done.status:
        said = next((line.strip() for line in reversed(done.errors.splitlines()) if line.strip()), "it said nothing")
        offline = "Commands have no network, which an operator may allow (post_build_network)."
        raise FixItError(
            f"A command of post_build ended with status {done.status}: {said[-300:].rstrip('.')}. "
            f"It was `{_shortened(command)}`.",
            advice="The log has all it said." if network else f"The log has all it said. {offline}",
            field="post_build",
        )


def _shortened(command: str) -> str:
    """Return a command as an error names it: its first line, if it is not too long."""
    command = command.replace("`", "'")  # which are what it stands between
    first = command.strip().partition("\n")[0]
    return first if first == command.strip() and len(first) <= _NAMED else f"{first[:_NAMED].rstrip()} …"


def _impossible(why: str, advice: str) -> FixItError:
    return FixItError(
        f"The commands of post_build cannot be run here: {why}.",
        advice=f"{advice}, or run them yourself when you build an image, and use that as container=.",
        field="post_build",
    )


def _give(root: Path) -> None:
    """Let the sandbox's user own the files, if that is another than the server's."""
    root.parent.chmod(0o711)
    if os.geteuid() != 0:
        return
    user = sandbox_program.USER
    os.chown(root, user, user)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            os.chown(Path(folder, name), user, user, follow_symlinks=False)
