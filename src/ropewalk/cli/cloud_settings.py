"""``ropewalk cloud-account set``: settings and credentials of where clusters run. Secrets are never arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.cli import ask, options, output
from ropewalk.errors import InputError

if TYPE_CHECKING:
    from ropewalk.cli.api import Session
    from ropewalk.schemas.cloud_accounts import CloudAccount, HostedSettings, SetAws, SetKubernetes

app = typer.Typer(no_args_is_help=True, help="Change where clusters run.")

KEY_ID = "ROPEWALK_AWS_ACCESS_KEY_ID"
SECRET = "ROPEWALK_AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a variable


@app.command()
def aws(
    access_key_id: Annotated[
        str | None, typer.Option("--access-key-id", metavar="ID", envvar=KEY_ID, help="Of a long-lived key (AKIA…).")
    ] = None,
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read the secret of the key from standard input.")
    ] = False,
    region: Annotated[str | None, typer.Option("--region", help="AWS region, for example eu-central-1.")] = None,
    role_arn: Annotated[
        str | None,
        typer.Option("--role-arn", help="Role to assume; its trust policy asks for the external id of `show`."),
    ] = None,
    private_subnets: Annotated[
        bool | None,
        typer.Option("--private-subnets/--public-subnets", help="Private ones need a NAT gateway, which costs money."),
    ] = None,
    allow_ingress_from: Annotated[
        list[str] | None,
        typer.Option("--allow-ingress-from", metavar="CIDR", help="Who may reach schedulers; may be repeated."),
    ] = None,
    vpc_cidr: Annotated[str | None, typer.Option("--vpc-cidr", metavar="CIDR", help="Addresses of a new VPC.")] = None,
    vpc_id: Annotated[str | None, typer.Option("--vpc-id", help="Your own VPC.")] = None,
    subnet_id: Annotated[
        list[str] | None, typer.Option("--subnet-id", help="Your own subnet; give two at least.")
    ] = None,
    security_group_id: Annotated[str | None, typer.Option("--security-group-id", help="Your own.")] = None,
    ecs_cluster: Annotated[str | None, typer.Option("--ecs-cluster", help="Name or ARN of your own.")] = None,
    execution_role_arn: Annotated[str | None, typer.Option("--execution-role-arn", help="Your own.")] = None,
    task_role_arn: Annotated[
        str | None, typer.Option("--task-role-arn", help="Rights of your code; default: a role that has none.")
    ] = None,
    repository: Annotated[str | None, typer.Option("--repository", help="Your own ECR repository.")] = None,
    log_group: Annotated[str | None, typer.Option("--log-group", help="Your own.")] = None,
    log_retention_days: Annotated[
        int | None, typer.Option("--log-retention-days", help="A period that CloudWatch Logs knows.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="Image of nodes where a cluster names none.")] = None,
    architecture: Annotated[str | None, typer.Option("--architecture", help="X86_64 or ARM64.")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", metavar="VPC=CIDR", help="Another VPC to reach by private addresses; may be repeated."),
    ] = None,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Let new clusters run in an AWS account. What is left out stays as it is; '' clears a text.

    The secret is asked for, or read from ROPEWALK_AWS_SECRET_ACCESS_KEY, or with --secret-stdin. A first key may also
    come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The key is tried before anything is stored.
    """
    given = {
        "region": region,
        "role_arn": role_arn,
        "private_subnets": private_subnets,
        "allow_ingress_from": allow_ingress_from,
        "vpc_cidr": vpc_cidr,
        "vpc_id": vpc_id,
        "subnet_ids": subnet_id,
        "security_group_id": security_group_id,
        "ecs_cluster": ecs_cluster,
        "execution_role_arn": execution_role_arn,
        "task_role_arn": task_role_arn,
        "repository": repository,
        "log_group": log_group,
        "log_retention_days": log_retention_days,
        "image": image,
        "architecture": architecture,
        "peering": [_peering(item) for item in peer] if peer else None,
    }
    from ropewalk.cli.api import connect
    from ropewalk.schemas.aws import AwsSettings
    from ropewalk.schemas.cloud_accounts import SetAws

    settings = ask.build(AwsSettings, **_cleared(given))
    with connect() as api:
        slug = api.account(account)
        key = _key(api, slug, access_key_id, stdin=secret_stdin)
        request = ask.build(SetAws, kind="aws", settings=settings, **key)
        _set(api, slug, request, as_json=as_json)


def _cleared(given: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not given; an empty text clears what was set before."""
    return {
        name: (None if value == "" else [] if value == [""] else value)
        for name, value in given.items()
        if value is not None
    }


def _peering(item: str) -> dict[str, str]:
    vpc, _, cidr = item.partition("=")
    if not vpc or not cidr:
        raise InputError(
            f"{item!r} is not of the form VPC=CIDR.", advice="For example vpc-0abc=10.0.0.0/16.", field="peer"
        )
    return {"vpc_id": vpc, "cidr": cidr}


def _key(api: Session, account: str, given: str | None, *, stdin: bool) -> dict[str, Any]:
    """Return the key to send; none: the one that is stored stays."""
    key_id, secret_variable, token = given, SECRET, None
    if key_id is None and not stdin and _has_key(api, account):
        return {}
    if key_id in (None, os.environ.get("AWS_ACCESS_KEY_ID")) and SECRET not in os.environ:
        # The very key that AWS's own tools would use.
        key_id, secret_variable = os.environ.get("AWS_ACCESS_KEY_ID", key_id), "AWS_SECRET_ACCESS_KEY"
        token = os.environ.get("AWS_SESSION_TOKEN")
    if key_id is None:
        if not ask.interactive():
            raise InputError(
                "There is no access key, and no terminal to ask for one.",
                advice=f"Give its id with --access-key-id and its secret in {SECRET}, or with --secret-stdin.",
                field="access_key_id",
            )
        key_id = str(typer.prompt("Access key id", err=True)).strip()
    secret = ask.secret(f"Secret of the access key {key_id}", env=secret_variable, stdin=stdin)
    key: dict[str, Any] = {"credentials": {"access_key_id": key_id, "secret_access_key": secret}}
    return key | ({"session_token": token} if token else {})


def _has_key(api: Session, account: str) -> bool:
    """Whether a key is stored: in the AWS account that is in use, or in one that was used before."""
    from ropewalk.client import calls
    from ropewalk.schemas.cloud_accounts import CloudKind

    cloud = api(calls.get_cloud_account(account))
    return cloud.kind is CloudKind.AWS or any(other.kind is CloudKind.AWS for other in cloud.others)


@app.command()
def kubernetes(
    kubeconfig: Annotated[
        Path | None,
        typer.Option("--kubeconfig", metavar="FILE", help="One context of it is kept; - is standard input."),
    ] = None,
    context: Annotated[str | None, typer.Option("--context", help="Which; default: its current one.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Default: the context's.")] = None,
    reach: Annotated[
        str | None,
        typer.Option("--reach", help="How clients reach schedulers: auto, gateway, load_balancer, node_port."),
    ] = None,
    service_annotation: Annotated[
        list[str] | None,
        typer.Option("--service-annotation", metavar="NAME=VALUE", help="Of schedulers' Services; may be repeated."),
    ] = None,
    allow_ingress_from: Annotated[
        list[str] | None,
        typer.Option("--allow-ingress-from", metavar="CIDR", help="Who may reach schedulers; may be repeated."),
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="Image of nodes where a cluster names none.")] = None,
    image_pull_secret: Annotated[
        list[str] | None, typer.Option("--image-pull-secret", metavar="NAME", help="May be repeated.")
    ] = None,
    image_registry: Annotated[
        str | None,
        typer.Option("--image-registry", metavar="HOST/REPOSITORY", help="For images of software environments."),
    ] = None,
    image_registry_credentials: Annotated[
        str | None,
        typer.Option(
            "--image-registry-credentials", metavar="NAME", help="Of ropewalk env credentials: what may push there."
        ),
    ] = None,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Let new clusters run in one namespace of Kubernetes. What is left out stays as it is; '' clears a text.

    Make a kubeconfig that is good for this with: ropewalk kubernetes kubeconfig
    """
    from ropewalk.cli.api import connect
    from ropewalk.schemas.cloud_accounts import SetKubernetes
    from ropewalk.schemas.kubernetes import KubernetesSettings

    given = {
        "context": context,
        "namespace": namespace,
        "reach": reach,
        "service_annotations": dict(_annotation(item) for item in service_annotation) if service_annotation else None,
        "allow_ingress_from": allow_ingress_from,
        "image": image,
        "image_pull_secrets": image_pull_secret,
        "image_registry": image_registry,
        "image_registry_credentials": image_registry_credentials,
    }
    settings = ask.build(KubernetesSettings, **_cleared(given))
    config = {} if kubeconfig is None else {"kubeconfig": _kubeconfig(kubeconfig)}
    with connect() as api:
        request = ask.build(SetKubernetes, kind="kubernetes", settings=settings, **config)
        _set(api, api.account(account), request, as_json=as_json)


def _annotation(item: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not name or not separator:
        raise InputError(f"{item!r} is not of the form NAME=VALUE.", field="service_annotation")
    return name, value


def _kubeconfig(path: Path) -> str:
    from ropewalk.client.cloud_accounts import read_kubeconfig

    return typer.get_text_stream("stdin").read() if str(path) == "-" else read_kubeconfig(path)


def _set(api: Session, account: str, request: SetAws | SetKubernetes, *, as_json: bool) -> None:
    from ropewalk.client import calls

    cloud = api(calls.set_cloud_account(account, request))
    if as_json:
        output.dump(cloud)
        return
    who = f" as {cloud.identity.name} ({cloud.identity.owner})" if cloud.identity else ""
    output.say(f"New clusters of {account} run on {cloud.kind}{who} from now on.")
    for note in [cloud.identity.warning if cloud.identity else None, *cloud.notes]:
        if note:
            output.note(f"Note: {note}")
    next_step(cloud)


def next_step(cloud: CloudAccount) -> None:
    """Say what to do next, if anything."""
    from ropewalk.schemas.cloud_accounts import CloudState

    if cloud.state in (CloudState.NEW, CloudState.REMOVED):
        output.note("Next: ropewalk cloud-account check (are all rights there?), then: ropewalk cloud-account prepare")
    elif cloud.reason:
        output.note(f"Note: {cloud.reason}")


@app.command()
def hosted(
    listen_host: Annotated[
        str | None, typer.Option("--listen-host", help="Address that schedulers and workers listen on.")
    ] = None,
    contact_host: Annotated[
        str | None, typer.Option("--contact-host", help="Name or address that clients use; '' for the former.")
    ] = None,
    core_hour_price: Annotated[float | None, typer.Option("--core-hour-price", help="Per CPU core and hour.")] = None,
    gib_hour_price: Annotated[float | None, typer.Option("--gib-hour-price", help="Per GiB and hour.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", help="Three letters (ISO 4217).")] = None,
    log_retention_days: Annotated[
        float | None, typer.Option("--log-retention-days", help="How long logs of ended nodes are kept.")
    ] = None,
    log_limit_mib: Annotated[
        int | None,
        typer.Option("--log-limit-mib", help="MiB of one node's log; the beginning of a longer one is dropped."),
    ] = None,
    isolation: Annotated[
        str | None,
        typer.Option("--isolation", help="Nodes run as a user of their account's own: auto, required or off."),
    ] = None,
    uid_base: Annotated[int | None, typer.Option("--uid-base", help="First user id for accounts.")] = None,
    uid_count: Annotated[int | None, typer.Option("--uid-count", help="How many user ids for accounts.")] = None,
    process_limit: Annotated[
        int | None, typer.Option("--process-limit", help="Processes and threads of one node at the most.")
    ] = None,
    cpu_quota: Annotated[
        bool | None,
        typer.Option("--cpu-quota/--no-cpu-quota", help="Nodes never use more than their cores, even if others idle."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Change the hosted cloud account (operators only); what is left out stays. Without options: show it."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.cloud_accounts import HostedSettings

    given = {
        "listen_host": listen_host,
        "contact_host": contact_host,
        "core_hour_price": core_hour_price,
        "gib_hour_price": gib_hour_price,
        "currency": currency,
        "log_retention_days": log_retention_days,
        "log_limit_mib": log_limit_mib,
        "isolation": isolation,
        "uid_base": uid_base,
        "uid_count": uid_count,
        "process_limit": process_limit,
        "cpu_quota": cpu_quota,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if listen_host == "":
        raise InputError("The address to listen on is empty.", field="listen_host", advice="For example 127.0.0.1.")
    with connect() as api:
        settings = api(calls.get_hosted())
        if changes:
            merged = {**settings.model_dump(), **changes}
            merged["contact_host"] = merged["contact_host"] or None
            settings = api(calls.set_hosted(ask.build(HostedSettings, **merged)))
    _hosted(settings, as_json)


def _hosted(settings: HostedSettings, as_json: bool) -> None:
    if as_json:
        output.dump(settings)
    else:
        output.facts(settings.model_dump().items())
