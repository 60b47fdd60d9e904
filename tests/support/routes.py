"""The application's routes with the permissions that they declare, read from the application itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from ropewalk.server.identity.permissions import Guard, Permission, Scope


@dataclass(frozen=True)
class Declared:
    """One method of one route, and what stands before it."""

    method: str
    path: str
    permissions: tuple[Permission, ...]

    @property
    def open(self) -> bool:
        return all(permission.scope is Scope.PUBLIC for permission in self.permissions)

    @property
    def page(self) -> bool:
        """Whether it is a page: those know people by a cookie and answer with HTML."""
        return not self.path.startswith("/api/")

    def url(self, **values: str) -> str:
        """Return the path with its parameters filled in; KeyError for one that is not given."""
        return self.path.replace(":path}", "}").format_map(values)


def declared(app: FastAPI) -> list[Declared]:
    """Return every route of *app*, whichever way it was added."""
    found = []
    for route in iter_route_contexts(app.routes):
        path, methods = route.path, route.methods
        assert path is not None, f"{route} has no path: mounts and websockets need a rule of their own"
        assert methods, f"{path} has no methods"
        permissions = tuple(guard.permission for guard in _guards(route.dependant))
        found += [Declared(method, path, permissions) for method in sorted(methods)]
    return found


def pages(app: FastAPI, **values: str) -> list[str]:
    """Return the address of every page, with *values* for its parameters; what is no page to look at is left out."""
    found = [route for route in declared(app) if route.page and route.method == "GET"]
    return [*(route.url(**values) for route in found if not _NO_PAGE.search(route.path)), "/nowhere"]


_NO_PAGE = re.compile(
    r"^/(healthz|readyz|metrics|static/.*|sign-in/sso.*|setup|operator)$|/live$|\.csv$|\.json$|/download$"
)
"""What machines read, what only leads elsewhere, streams, and files to be kept."""


def _guards(dependant: Dependant) -> Iterator[Guard]:
    for dependency in dependant.dependencies:
        guard = getattr(dependency.call, "__self__", None)
        if isinstance(guard, Guard):
            yield guard
        yield from _guards(dependency)
