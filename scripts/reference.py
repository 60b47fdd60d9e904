"""Write docs/reference/*.md from the code; run it as scripts/docs.

What it reads: the commands of typer, the server's settings, the client's configuration schema, the OpenAPI description,
the event codes, the tree of errors, the public Python API, the table of AWS permissions.
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeGuard

import typer.main

import ropewalk
from ropewalk import errors
from ropewalk.cli.main import app
from ropewalk.client import config
from ropewalk.schemas import kubernetes_permissions as kubernetes
from ropewalk.schemas.aws_permissions import NOT_NEEDED, PERMISSIONS, Permission, Phase
from ropewalk.server.app import create_app
from ropewalk.server.events import MEANINGS, EventCode
from ropewalk.server.settings import ENV_PREFIX, Settings

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference"

HEADER = "<!-- Written by scripts/docs from the code. Change the code, not this page. -->\n\n"


def cell(value: object) -> str:
    """Return text that fits into a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|") or " "


def table(headers: list[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [f"| {' | '.join(headers)} |", f"|{'|'.join(' --- ' for _ in headers)}|"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def code(value: object) -> str:
    return f"`{value}`"


# The command line.


def cli() -> str:
    root = typer.main.get_command(app)
    return (
        "# Command line\n\n"
        "Everything that `ropewalk` can do. `--json` prints JSON with the fields of the "
        "[HTTP API](http-api.md); errors then are JSON on standard error, too. Exit statuses are those of "
        "[errors](errors.md), 130 after Ctrl-C, 141 when the reader of a pipe went away.\n\n"
        + _options(root, "Given before the command:")
        + "".join(_commands(root, "ropewalk"))
    )


def _commands(group: Any, path: str) -> Iterator[str]:
    with group.make_context(path, [], resilient_parsing=True) as context:
        children = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    for name, command in children:
        full = f"{path} {name}"
        if hasattr(command, "list_commands"):
            yield f"\n## {full}\n\n{_paragraphs(command.help)}\n"
            yield from _commands(command, full)
        else:
            level = "##" if path == "ropewalk" else "###"
            yield f"\n{level} {full}\n\n{_paragraphs(command.help)}\n\n{_usage(command, full)}"


def _usage(command: Any, full: str) -> str:
    arguments = [(_value(each), each.help) for each in command.params if each.param_type_name == "argument"]
    usage = " ".join([full, "[OPTIONS]", *(metavar for metavar, _ in arguments)])
    explained = "".join(f"- `{metavar}`: {text}\n" for metavar, text in arguments if text)
    options = _options(command, "")
    return "\n".join(part for part in (f"```text\n{usage}\n```\n", explained, options) if part)


def _value(parameter: Any) -> str:
    """Return what stands for the value of an option or argument."""
    kind = parameter.type_descriptor.annotation
    if parameter.metavar:
        return str(parameter.metavar)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(each.value for each in kind)
    return {int: "NUMBER", float: "NUMBER", Path: "FILE"}.get(kind) or str(parameter.name).upper()


def _options(command: Any, title: str) -> str:
    rows: list[list[object]] = []
    for each in command.params:
        if each.param_type_name != "option" or each.name in ("help", "install_completion", "show_completion"):
            continue
        names = ", ".join(code(name) for name in [*each.opts, *each.secondary_opts])
        rows.append([names, "" if each.is_flag else code(_value(each)), each.help or ""])
    if not rows:
        return ""
    return (f"{title}\n\n" if title else "") + table(["option", "value", "meaning"], rows)


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n"))


# Configuration.


def configuration() -> str:
    server = [
        [code(name), code(ENV_PREFIX + name.upper()), _default(name, field), field.description or ""]
        for name, field in Settings.model_fields.items()
    ]
    client = [
        [code(name), code(f"DASK_ROPEWALK__{name.replace('.', '__').upper()}"), default, text]
        for name, default, text in _client_settings()
    ]
    return (
        "# Configuration\n\n"
        "## Server\n\n"
        "A flag of `ropewalk server start` comes before an environment variable, that before the TOML file "
        "(`--config`, `ROPEWALK_CONFIG`, or `ropewalk.toml` in the data directory), that before the default. "
        "A name that does not exist is an error. `ropewalk server config` shows what holds and where it comes from.\n\n"
        + table(["setting", "environment", "default", "meaning"], server)
        + "\n## Client\n\n"
        "Section `ropewalk` of [Dask's configuration](https://docs.dask.org/en/stable/configuration.html): "
        "`~/.config/dask/ropewalk.yaml` (written by `ropewalk login` and `ropewalk config set`), the environment, or "
        "`dask.config.set`.\n\n" + table(["key", "environment", "default", "meaning"], client)
    )


_COMPUTED = {
    "data_dir": "`$XDG_DATA_HOME/ropewalk` or `~/.local/share/ropewalk`",
    "local_dir": "`<data_dir>/local`",
    "database_url": "`sqlite:///<data_dir>/ropewalk.db`",
    "public_url": "`http://<host>:<port>`",
    "encryption_key_file": "`<data_dir>/encryption.key`",
    "gateway_host": "the value of `host`",
}


def _default(name: str, field: Any) -> str:
    if field.default_factory is not None:
        return _COMPUTED[name]
    return "none" if field.default is None else code(field.default)


def _client_settings() -> Iterator[tuple[str, str, str]]:
    def walk(section: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
        for name, declared in section["properties"].items():
            if "properties" in declared:
                yield from walk(declared, defaults[name], f"{prefix}{name}.")
            else:
                default = defaults[name]
                yield prefix + name, "none" if default is None else code(default), declared["description"]

    yield from walk(config.schema()["properties"]["ropewalk"], config.defaults()["ropewalk"], "")


# The HTTP API.


def http_api() -> str:
    with tempfile.TemporaryDirectory() as folder:
        described = create_app(Settings(data_dir=Path(folder))).openapi()
    introduction = (
        "# HTTP API\n\n"
        "JSON in and out. Log in with `Authorization: Bearer <token>`. Every error has the shape of "
        "[`ErrorResponse`](#errorresponse), with a code of [this list](errors.md). Every answer has the header "
        "`X-Request-Id`, which is in the server's log, too. What you may not see is 404. The server describes itself "
        "at `/api/v1/openapi.json`.\n"
    )
    parts = [introduction]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(method, path, operation))
    parts.append("\n## Schemas\n")
    parts += [_schema(name, schema) for name, schema in sorted(described["components"]["schemas"].items())]
    return "".join(parts)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    text = _paragraphs(operation.get("description") or operation.get("summary"))
    lines = [f"\n## {method.upper()} {path}\n\n{text}\n"]
    query = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
    if query:
        rows = [[code(p["name"]), _type(p["schema"]), p.get("description", "")] for p in query]
        lines.append("\n" + table(["query", "type", "meaning"], rows))
    body = operation.get("requestBody")
    if body:
        lines.append(f"\nBody: {_content(body)}\n")
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            lines.append(f"\nAnswer: {status}, {_content(response)}\n")
    return "".join(lines)


def _content(part: Mapping[str, Any]) -> str:
    content = part.get("content", {})
    if not content:
        return "nothing"
    kind, found = next(iter(content.items()))
    shown = _type(found.get("schema", {}))
    return shown if kind == "application/json" else f"{shown} (`{kind}`)"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(code(value) for value in schema.get("enum") or [schema["const"]])
    if "prefixItems" in schema:
        return f"[{', '.join(_type(each) for each in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = str(schema.get("type", "anything"))
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    text = f"\n### {name}\n\n{_paragraphs(schema.get('description', '').split('Args:')[0])}\n"
    if "properties" not in schema:
        return f"{text}\n{_type(schema)}\n"
    required = schema.get("required", ())
    rows: list[list[object]] = [
        [code(field), _type(found), "yes" if field in required else "", found.get("description", "")]
        for field, found in schema["properties"].items()
    ]
    return f"{text}\n{table(['field', 'type', 'required', 'meaning'], rows)}"


# Events, errors, Python.


def events() -> str:
    return (
        "# Events\n\n"
        "Everything that happens is recorded as an event: append-only, with a code for programs and a sentence for "
        "people. `ropewalk cluster events NAME` shows those of a cluster, `ropewalk audit` all of them (operators).\n\n"
        + table(["code", "when"], [[code(each), MEANINGS[each]] for each in EventCode])
    )


def errors_() -> str:
    tree = inspect.cleandoc(errors.__doc__ or "").split("::\n\n")[1].split("\n\n")[0]
    classes = [found for found in vars(errors).values() if _is_error(found)]
    rows = [[code(cls.__name__), code(cls.code), cls.http_status, cls.exit_code] for cls in classes]
    return (
        "# Errors\n\n"
        "Every exception that Ropewalk raises says what happened and why (`message`), what to do next (`advice`) and, "
        "where one is wrong, which argument or setting (`field`). The code is the same in Python, in the HTTP API and "
        "in the JSON of the command line, and it never changes.\n\n"
        f"```text\n{inspect.cleandoc(tree)}\n```\n\n" + table(["exception", "code", "HTTP status", "exit status"], rows)
    )


def _is_error(found: object) -> TypeGuard[type[errors.RopewalkError]]:
    return isinstance(found, type) and issubclass(found, errors.RopewalkError)


def python_api() -> str:
    parts = ["# Python API\n\nWhat `import ropewalk` offers. The exceptions are [on a page of their own](errors.md).\n"]
    for name in ropewalk.__all__:
        found = getattr(ropewalk, name)
        if name.startswith("__") or name in errors.__all__:
            continue
        parts.append(f"\n## ropewalk.{name}\n\n{_signature(name, found)}{_doc(found)}")
        if name == "Cluster":
            parts += _methods(found)
    return "".join(parts)


def _methods(cls: type) -> Iterator[str]:
    # Its own and those of the classes that it is made of, but not Dask's.
    ours = [each for each in reversed(cls.__mro__) if each.__module__.startswith("ropewalk.")]
    for name, member in sorted({name: member for each in ours for name, member in vars(each).items()}.items()):
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        if not inspect.getdoc(member):
            continue
        signature = "" if isinstance(member, property) else _signature(f"Cluster.{name}", member)
        yield f"\n### Cluster.{name}\n\n{signature}{_doc(member)}"


def _signature(name: str, found: Any) -> str:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return ""
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values() if each.name != "self"]
    shown = [re.sub(r"<[^>]*>", "…", str(each)) for each in parameters]
    marked = _with_markers(parameters, shown)
    text = f"{name}({', '.join(marked)})"
    if len(text) > 100:
        text = f"{name}(\n" + "".join(f"    {each},\n" for each in marked) + ")"
    return f"```text\n{text}\n```\n\n"


def _with_markers(parameters: list[inspect.Parameter], shown: list[str]) -> list[str]:
    """Put the ``*`` of keyword-only parameters where it belongs."""
    marked = []
    starred = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    for parameter, text in zip(parameters, shown, strict=True):
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            marked.append("*")
            starred = True
        marked.append(text)
    return marked


def _doc(found: Any) -> str:
    """Turn a docstring (Google style, reStructuredText markup) into Markdown."""
    text = inspect.getdoc(found) or ""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda match: code(match[1].rpartition(".")[2]), text).replace("``", "`")
    lines = [_doc_line(line) for line in text.splitlines()]
    body = re.sub(r"::\n\n((?:    .*\n|\n)+)", lambda m: f":\n\n```python\n{inspect.cleandoc(m[1])}\n```\n\n",
                  "\n".join(lines) + "\n")  # fmt: skip
    return body.rstrip() + "\n"


def _doc_line(line: str) -> str:
    if re.fullmatch(r"(Args|Returns|Raises|Yields|Example|Examples):", line):
        return f"**{line[:-1]}**\n"
    argument = re.match(r"    (\*{0,2}\w+): (.*)", line)
    if argument:
        return f"- `{argument[1]}`: {argument[2]}"
    return line


def aws_permissions() -> str:
    needless = "".join(f"- {code(action)}: {why}\n" for action, why in NOT_NEEDED.items())
    return (
        "# AWS permissions\n\n"
        "Every action that Ropewalk can use in a team's AWS account. `ropewalk cloud-account policy aws` prints them "
        "as a policy, `--phase` those of one section; `ropewalk cloud-account check` tries them. *Limited to*: what "
        "`--scoped` allows; *the tag* is `ropewalk:installation`. "
        "[Why each is needed](../explanation/aws-permissions.md).\n"
        + "".join(_phase(phase) for phase in Phase)
        + (f"\n## Not needed\n\n{needless}" if needless else "")
    )


def _phase(phase: Phase) -> str:
    rows = [_permission(item) for item in PERMISSIONS if phase in item.phases]
    heading = f"\n## {str(phase).capitalize()}\n\n"
    return heading + table(["Action", "Used to", "Required", "Without it", "Limited to"], rows)


def _permission(item: Permission) -> list[object]:
    required = "no" if not item.required else f"with {code(item.feature)}" if item.feature else "yes"
    limits = dict.fromkeys(scope.limit for scope in item.scopes)
    return [code(item.action), item.use, required, item.without or "clusters do not run", ", ".join(limits)]


def kubernetes_permissions() -> str:
    rows: list[list[object]] = [
        [code(each.resource), code(each.verb), "no" if each.optional else "yes", each.breaks]
        for each in kubernetes.PERMISSIONS
    ]
    return (
        "# Kubernetes permissions\n\n"
        "Every right that Ropewalk uses, all inside one namespace and of the core API group. "
        "`ropewalk kubernetes manifest` prints a Role that holds exactly these; `ropewalk cloud-account check` asks "
        "for each. A test compares the table with the audit log of a real API server. Secrets can be made, never read. "
        "[How clusters run in Kubernetes](../explanation/kubernetes.md).\n\n"
        + table(["Resource", "Verb", "Required", "Without it"], rows)
    )


PAGES = {
    "aws-permissions.md": aws_permissions,
    "kubernetes-permissions.md": kubernetes_permissions,
    "cli.md": cli,
    "configuration.md": configuration,
    "http-api.md": http_api,
    "events.md": events,
    "errors.md": errors_,
    "python-api.md": python_api,
}


def outdated() -> list[str]:
    """Return the names of the pages that are not what the code says."""
    return [
        name
        for name, make in PAGES.items()
        if not (TARGET / name).exists() or (TARGET / name).read_text("utf-8") != HEADER + make()
    ]


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` report which are out of date."""
    names = outdated()
    if "--check" in arguments:
        for name in names:
            print(f"docs/reference/{name} is out of date; run scripts/docs", file=sys.stderr)
        return 1 if names else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in names:
        (TARGET / name).write_text(HEADER + PAGES[name](), "utf-8")
        print(f"wrote docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
