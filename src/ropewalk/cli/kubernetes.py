"""``ropewalk kubernetes``: what a namespace's owner prepares; works without a server of Ropewalk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import output
from ropewalk.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ropewalk.cli.kubectl import Grant

app = typer.Typer(no_args_is_help=True, help="Prepare a namespace of Kubernetes for clusters.")

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Where clusters will run.")]
ServiceAccount = Annotated[str, typer.Option(help="Name of the service account that Ropewalk is there.")]


@app.command()
def manifest(
    namespace: Namespace = "ropewalk",
    service_account: ServiceAccount = "ropewalk",
    existing: Annotated[bool, typer.Option("--existing-namespace", help="The namespace exists: leave it out.")] = False,
    network_policy: Annotated[
        bool, typer.Option("--network-policy", help="Let nodes of clusters accept connections from nodes only.")
    ] = False,
    quota: Annotated[
        list[str] | None, typer.Option(help="A hard limit of the namespace, such as requests.cpu=100; may be repeated.")
    ] = None,
) -> None:
    """Print what a namespace needs for Ropewalk; give it to `kubectl apply -f -`.

    A service account, a role with exactly the permissions that are used, and the binding of the two.
    """
    import yaml

    from ropewalk.schemas.kubernetes_manifest import manifest as make

    objects = make(
        namespace,
        service_account=service_account,
        create_namespace=not existing,
        network_policy=network_policy,
        quota=_quota(quota or ()),
    )
    output.say(yaml.safe_dump_all(objects, sort_keys=False).rstrip())


def _quota(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for each in given:
        key, separator, value = each.partition("=")
        if not separator or not key or not value:
            raise InputError(f"{each!r} is not a limit.", field="quota", advice="Write it as requests.cpu=100.")
        found[key] = value
    return found


@app.command()
def kubeconfig(
    namespace: Namespace = "ropewalk",
    service_account: ServiceAccount = "ropewalk",
    context: Annotated[str | None, typer.Option(help="The context of your own kubeconfig to use.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Let it expire after so many days; default: never.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it there, readable for you only; default: print it.")
    ] = None,
) -> None:
    """Make a kubeconfig with the rights of Ropewalk's service account only.

    Uses kubectl and your own rights; apply what `ropewalk kubernetes manifest` prints first.
    """
    from ropewalk.cli.kubectl import Kubectl

    grant = Kubectl(namespace, context).grant(service_account, days)
    if file is None:
        output.say(grant.kubeconfig.rstrip())
    else:
        _write(file, grant.kubeconfig)
        output.note(f"Written to {file}. Use it with: ropewalk cloud-account set kubernetes --kubeconfig {file}")
    output.note(_until(grant, namespace))


def _until(grant: Grant, namespace: str) -> str:
    if grant.expires is not None:
        return f"Its token, issued for service account {grant.account}, is valid until {grant.expires}."
    return (
        f"Its token is in the Secret {grant.secret} and does not expire. To revoke it: "
        f"kubectl -n {namespace} delete secret {grant.secret}"
    )


def _write(file: Path, content: str) -> None:
    import os

    file.unlink(missing_ok=True)  # with whatever permissions it had
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(content)
