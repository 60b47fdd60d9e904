"""``ropewalk image``: images in the registry of a cloud account."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli import ask, options, output

app = typer.Typer(no_args_is_help=True, help="Container images in the registry of an account's cloud account.")


@app.command("list")
def list_(account: options.Account = None, as_json: options.Json = False) -> None:
    """List the images, newest first."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        found = api(calls.list_images(api.account(account)))
    if as_json:
        output.dump(found)
        return
    output.table(
        ["TAGS", "SIZE", "PUSHED", "CONTAINER"],
        [[", ".join(i.tags), f"{i.size / 2**20:.1f} MiB", i.pushed_at, i.reference] for i in found],
        empty="This cloud account has no images.",
    )


@app.command()
def push(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="OCI layout (folder or tar), or from docker save.")],
    tag: Annotated[str | None, typer.Option("--tag", "-t", help="Its name there; default: as in the archive.")] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", help="Which image of several, for example linux/arm64.")
    ] = None,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Push an image: only layers that are missing are sent; after an interruption it goes on where it was."""
    from ropewalk.cli.api import connect
    from ropewalk.client import images

    with connect() as api:
        slug = api.account(account)
        with _progress() as progress:
            image = images.push(api, slug, file, tag=tag, platform=platform, progress=progress)
    if as_json:
        output.dump(image)
    else:
        output.say(f"{image.reference} is there. Use it: ropewalk.Cluster(container={image.reference!r})")


@app.command()
def delete(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A tag or a digest.", show_default=False)],
    account: options.Account = None,
    yes: options.Yes = False,
) -> None:
    """Delete an image with all its tags; clusters that run go on."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = api.account(account)
        ask.confirm(f"Delete the image {name} of {slug}? Clusters cannot be started from it any more.", yes=yes)
        api(calls.delete_image(slug, name))
    output.say(f"The image {name} is deleted.")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal; elsewhere say what there is to send."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = output.console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("Pushing", total=None)

        def told(done: int, total: int) -> None:
            if bar.tasks[task].total is None and not console.is_terminal:
                output.note(f"{total / 2**20:.1f} MiB to send." if total else "Everything is there already.")
            bar.update(task, completed=done, total=total)

        yield told
