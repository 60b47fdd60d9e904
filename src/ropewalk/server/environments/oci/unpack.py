"""Unpacking layers to a folder, as a container runtime does, and telling what changed in it afterwards.

Names and links of an archive never lead out of the folder: links are followed as if the folder were the root of the
file system, and names that climb are refused.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ropewalk.errors import FixItError
from ropewalk.server.environments.oci.blobs import disk_errors
from ropewalk.server.environments.oci.layers import Entry

__all__ = ["Snapshot", "changes", "snapshot", "unpack"]

MAX_BYTES = 32 * 2**30
"""Of all files of an image: the largest that people have are some 15 GiB."""
_MOST_HOPS = 40
_OPAQUE = ".wh..wh..opq"

Snapshot = dict[str, tuple[int, int, int, int, str]]
"""Mode, size, time of change, inode and target of each name."""


def unpack(layers: Iterable[Path], root: Path) -> None:
    """Unpack layers, the lowest first, to *root*, a folder that nobody else writes to.

    Raises:
        FixItError: A name leads out of the folder, a layer cannot be read, or there is no room.
    """
    left = MAX_BYTES
    for layer in layers:
        try:
            with disk_errors(), tarfile.open(layer, "r:*") as archive:
                for member in archive:
                    left -= member.size
                    if left < 0:
                        raise FixItError(f"The image has more than {MAX_BYTES // 2**30} GiB of files.")
                    _place(archive, member, root)
        except (tarfile.TarError, EOFError, zlib.error) as exc:
            raise FixItError(f"A layer of the image cannot be unpacked: {exc}.") from exc


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    name = posixpath.normpath(member.name).lstrip("/")
    if ".." in member.name.split("/") or name == ".":
        if name == ".":
            return
        raise _escape(member.name)
    folder = _inside(root, posixpath.dirname(name))
    base = posixpath.basename(name)
    if base == _OPAQUE:
        for each in list(folder.iterdir()):
            _remove(each)
    elif base.startswith(".wh."):
        _remove(folder / base.removeprefix(".wh."))
    else:
        _write(archive, member, root, folder / base)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: Path) -> None:
    if member.isdir():
        if path.is_symlink() or not path.is_dir():
            _remove(path)
            path.mkdir()
        path.chmod(member.mode & 0o777 | stat.S_IRWXU)
        return
    if member.islnk():
        if ".." in member.linkname.split("/"):
            raise _escape(member.linkname)
        source = _inside(root, posixpath.dirname(member.linkname.lstrip("/"))) / posixpath.basename(member.linkname)
        if source.is_symlink() or not source.is_file():
            raise _escape(f"{member.name} → {member.linkname}")
        _remove(path)
        os.link(source, path)
    elif member.issym():
        _remove(path)
        path.symlink_to(member.linkname)
    elif member.isfile():
        _remove(path)
        content = archive.extractfile(member)
        if content is not None:
            with content, path.open("xb") as target:
                shutil.copyfileobj(content, target)
            path.chmod(member.mode & 0o777 | stat.S_IRUSR)
    # Devices and pipes are left out: nothing in a build needs those of an image.


def _inside(root: Path, name: str) -> Path:
    """Return the folder *name* below *root*, made if need be; links are followed as if *root* were ``/``."""
    waiting = [part for part in name.split("/") if part][::-1]
    at, hops = root, 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            at = at if at == root else at.parent
            continue
        step = at / part
        if step.is_symlink():
            hops += 1
            if hops > _MOST_HOPS:
                raise _escape(name)
            target = str(step.readlink())
            at = root if target.startswith("/") else at
            waiting += [each for each in target.split("/") if each not in ("", ".")][::-1]
        else:
            if not step.is_dir():
                _remove(step)
                step.mkdir()
            at = step
    return at


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _escape(name: str) -> FixItError:
    return FixItError(
        f"A layer of the image holds the name {name[:200]!r}, which leads out of it.",
        advice="The image is broken or malicious: choose another one.",
        field="container",
    )


def snapshot(root: Path) -> Snapshot:
    """Return what is in a folder, to be compared later."""
    return dict(_walk(root))


def _walk(root: Path) -> Iterator[tuple[str, tuple[int, int, int, int, str]]]:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = path.lstat()
            link = str(path.readlink()) if stat.S_ISLNK(status.st_mode) else ""
            # A folder's time changes with each name in it, which is told by that name.
            time = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            yield path.relative_to(root).as_posix(), (status.st_mode, size, time, status.st_ino, link)


def changes(root: Path, before: Snapshot, hidden: Iterable[str]) -> list[Entry]:
    """Return what was added, changed and removed since *before*, as the entries of a layer; not below *hidden*."""
    after = snapshot(root)
    out = tuple(f"{name}/" for name in hidden)
    found = [
        _entry(root, name, facts)
        for name, facts in after.items()
        if before.get(name) != facts and not f"{name}/".startswith(out) and _kept(facts[0])
    ]
    gone = sorted(name for name in before.keys() - after.keys() if not f"{name}/".startswith(out))
    for name in gone:
        folder, base = posixpath.split(name)
        if not folder or folder in after:  # else the folder's own mark is enough
            found.append(Entry(posixpath.join(folder, f".wh.{base}"), data=b""))
    return found


def _kept(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def _entry(root: Path, name: str, facts: tuple[int, int, int, int, str]) -> Entry:
    mode, _, _, _, link = facts
    if stat.S_ISLNK(mode):
        return Entry(name, link=link)
    source = root / name if stat.S_ISREG(mode) else None
    return Entry(name, source, mode=mode & 0o1777)
