"""``ropewalk config``: the section ``ropewalk`` of Dask's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from ropewalk.cli import options, output
from ropewalk.errors import InputError

app = typer.Typer(no_args_is_help=True, help="The client's configuration, which Python uses, too.")

HIDDEN = "********"

Key = Annotated[str, typer.Argument(metavar="KEY", help="For example account, or cluster.worker_memory.")]


@app.command("list")
def list_(as_json: options.Json = False) -> None:
    """Show what holds now, from files, environment and defaults; the token is hidden."""
    values = dict(_effective())
    if as_json:
        output.dump(values)
    else:
        output.table(["KEY", "VALUE"], [[key, _text(value)] for key, value in values.items()], empty="")


@app.command()
def get(key: Key, as_json: options.Json = False) -> None:
    """Show one value; the token is hidden."""
    _declared(key)
    value = dict(_effective()).get(key)
    if as_json:
        output.dump({key: value})
    else:
        output.say(_text(value))


@app.command("set")
def set_(key: Key, value: Annotated[str, typer.Argument(help="Read as YAML: 8, '[1, 8]', '8 GiB', true.")]) -> None:
    """Set a value in the configuration file."""
    import yaml

    from ropewalk.client import config

    if key == "token":
        raise InputError(
            "A token does not belong on a command line, where others can read it.",
            advice="Run: ropewalk login --token - (and paste it, or pipe it).",
            field="token",
        )
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"{value!r} is not YAML.", advice="Put quotes around it.", field=key) from None
    checked = _checked(key, _declared(key), parsed)
    output.say(f"{key} is set in {config.save({key: checked})}.")


@app.command()
def unset(key: Key) -> None:
    """Take a value out of the configuration file; its default holds again."""
    from ropewalk.client import config

    _declared(key)
    output.say(f"{key} is no longer set in {config.save({key: None})}.")


@app.command()
def path() -> None:
    """Print the file that `config set` and `login` write to."""
    from ropewalk.client import config

    output.say(str(config.config_file()))


def _effective() -> Iterator[tuple[str, Any]]:
    from ropewalk.client import config

    for key in _keys(config.schema()["properties"]["ropewalk"]):
        value = config.get(key)
        yield key, (HIDDEN if value else None) if key == "token" else value


def _keys(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, declared in section["properties"].items():
        if "properties" in declared:
            yield from _keys(declared, f"{prefix}{name}.")
        else:
            yield prefix + name


def _declared(key: str) -> Mapping[str, Any]:
    """Return what the schema says about *key*; an unknown one is an error that lists those that are alike."""
    import difflib

    from ropewalk.client import config

    section = config.schema()["properties"]["ropewalk"]
    known = list(_keys(section))
    if key not in known:
        close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        advice = f"Did you mean {', '.join(close)}?" if close else "See: ropewalk config list."
        raise InputError(f"There is no setting {key!r}.", advice=advice, field=key)
    for name in key.split("."):
        section = section["properties"][name]
    return dict(section)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _checked(key: str, declared: Mapping[str, Any], value: Any) -> Any:
    """Return what to store, or refuse what the schema refuses; more is checked where values are used."""
    if "enum" in declared:
        # YAML reads on and off as booleans.
        word = ("on" if value else "off") if isinstance(value, bool) else value
        if word not in declared["enum"]:
            raise InputError(f"{key} is one of {', '.join(declared['enum'])}.", field=key, advice="Choose one of them.")
        return word
    kinds = [declared["type"]] if isinstance(declared["type"], str) else declared["type"]
    allowed = tuple(cls for kind in kinds for cls in _TYPES[kind])
    if (isinstance(value, bool) and bool not in allowed) or not isinstance(value, allowed):
        raise InputError(
            f"{key} is {' or '.join(kinds)}, not {type(value).__name__}.", field=key, advice=declared["description"]
        )
    if key == "server":
        from ropewalk.client.exchange import check_server_url

        return check_server_url(value)
    return value


def _text(value: Any) -> str:
    import json

    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)
