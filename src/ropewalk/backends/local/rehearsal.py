"""What a warm parent does once, so that none of its forks has to. It needs no Ropewalk.

None of it is secret or random: certificates of the machine that TLS would trust by default, versions of packages, and
the some 260 routes of the dashboards, whose patterns are compiled. Together half of the processor time of a forked
scheduler, and more than half of a worker's (docs/explanation/performance.md). What is read anew by each fork, since
another user may not read the same, is read by a faster parser.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import sys
import types
from collections.abc import Sequence
from typing import Any


def preload(modules: Sequence[str]) -> None:
    """Import what is installed of *modules*; what cannot be imported is the node's own matter."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def rehearse() -> None:
    """Do once what each node would do first: what libraries keep of it, forks find."""
    steps = {
        "dask.config": _parse_quickly,
        "tornado.netutil": _trust,
        "distributed.versions": _find_versions,
        "distributed.dashboard.scheduler": _build_dashboards,
    }
    for module, step in steps.items():
        with contextlib.suppress(Exception):  # another version of a library: then forks do it themselves
            if module in sys.modules:
                step()


def _trust() -> None:
    from tornado import netutil  # noqa: PLC0415 - nodes have it, and this program starts without

    netutil._client_ssl_defaults()  # noqa: SLF001 - remembered by tornado
    netutil._server_ssl_defaults()  # noqa: SLF001 - see above


def _parse_quickly() -> None:
    """Let Dask read its configuration files by libyaml: each worker reads all that it finds, comments by the page."""
    import yaml  # noqa: PLC0415 - nodes have it, and this program starts without
    from dask import config  # noqa: PLC0415 - see above

    load: Any = functools.partial(yaml.load, Loader=yaml.CSafeLoader)
    # Dask's own name for it only: what tasks parse is none of ours.
    vars(config)["yaml"] = types.SimpleNamespace(safe_load=load)


def _find_versions() -> None:
    from distributed import versions  # noqa: PLC0415 - see above

    versions.get_versions()


def _build_dashboards() -> None:
    import bokeh.application.handlers.function as handling  # noqa: PLC0415 - see above
    import bokeh.server.tornado as serving  # noqa: PLC0415 - see above
    from distributed.dashboard import core, scheduler, worker  # noqa: PLC0415 - see above

    build: Any = core.BokehApplication
    nobody: Any = types.SimpleNamespace(http_server=types.SimpleNamespace(port=0))
    for module in (scheduler, worker):
        build(module.applications, nobody, prefix="")
    # All of these were just checked; each fork would read 47 signatures again.
    vars(handling)["_check_callback"] = lambda *_args: None
    # A third of what is left is writing all routes down for a log line that nobody asked for.
    if not serving.log.isEnabledFor(logging.DEBUG):
        vars(serving)["pformat"] = lambda *_args, **_options: ""
