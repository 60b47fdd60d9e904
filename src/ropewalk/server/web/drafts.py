"""Forms that survive the end of a session: what was typed comes back after signing in, but for secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from fastapi.responses import RedirectResponse

from ropewalk.schemas.environments import CREDENTIALS
from ropewalk.server.web.deps import PageRoute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["DraftRoute", "key_id"]

KEPT = frozenset(
    {
        *("region", "network", "role_arn", "vpc_cidr", "vpc_id", "subnet_ids", "security_group_id", "ecs_cluster"),
        *("execution_role_arn", "task_role_arn", "repository", "log_group", "log_retention_days", "image"),
        *("architecture", "allow_ingress_from", "peering", "access_key_id", "context", "namespace", "reach"),
        *("service_annotations", "image_pull_secrets", "run_as_user", "core_hour_price", "gib_hour_price", "currency"),
        *("image_registry", "image_registry_credentials"),
        *("name", "python", "pip", "channels", "conda", "container", "private"),
    }
)
"""Fields that may be in an address. Secrets are none of them, and a field that is added is none either."""

MAX_ADDRESS = 1900
"""Characters: the sign-in page takes up to 2,000 to go back to."""

_KEY_ID = re.compile(r"AKIA[A-Z0-9]{16}")


def key_id(text: str) -> str:
    """Return *text* if it is an access key's id: people paste secrets into the wrong field, too."""
    return text if _KEY_ID.fullmatch(text.strip()) else ""


class DraftRoute(PageRoute):
    """A form's route. Whoever's session ended meanwhile finds the form as it was after signing in."""

    async def interrupted(self, request: Request) -> Response:
        if request.method != "POST":
            return await super().interrupted(request)
        async with request.form() as form:
            path = f"{request.url.path}?{urlencode(_typed(form))}"
        wanted = path if len(path) <= MAX_ADDRESS else request.url.path
        return RedirectResponse(f"/sign-in?{urlencode({'next': wanted})}", status_code=303)


def _typed(form: Mapping[str, object]) -> dict[str, str]:
    given = {name: value for name, value in form.items() if name in KEPT and isinstance(value, str) and value}
    # A password in the address of a package is refused by the form; it must not get into an address here, either.
    typed = {name: value for name, value in given.items() if not CREDENTIALS.search(value)}
    if "access_key_id" in typed:
        typed["access_key_id"] = key_id(typed["access_key_id"])
    return typed
