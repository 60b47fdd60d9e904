"""The route of style sheets and scripts."""

from fastapi import APIRouter, Request, Response

from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web import assets
from ropewalk.server.web.deps import PageRoute, public

router = APIRouter(prefix="/static", route_class=PageRoute, include_in_schema=False)

_A_YEAR = "public, max-age=31536000, immutable"
"""The address has the content's hash: another content has another address."""


@router.get("/{digest}/{name}", dependencies=[public(Permission.PUBLIC_PAGES_READ)])
async def get_file(request: Request, digest: str, name: str) -> Response:
    """Send a file, compressed for those who take that."""
    asset = assets.get(digest, name)
    packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = {"Cache-Control": _A_YEAR, "Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if packed else {})
    return Response(asset.packed if packed else asset.body, media_type=asset.media_type, headers=headers)
