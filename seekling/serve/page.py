"""The page at ``/``: plain files in ``page/``, which may run and ask nothing but what this server sends.

The files' addresses hold a hash of them all, so browsers may keep them for a year and an upgrade is seen at once. Scripts,
styles and requests are allowed from this origin only, and trusted types switch off everything in a browser that parses text
as markup: what a model writes stays text.
"""

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from seekling.serve.failures import ApiError
from seekling.serve.state import Server

PAGE = "/page/"  # where the files are
FOLDER = Path(__file__).with_name("page")
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{rule} {value}" for rule, value in POLICY.items()),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
}


async def page(server: Server, request: Request) -> Response:
    """``/``."""
    html, tag = index()
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, HEADERS | {"ETag": tag})
    return Response(html, 200, HEADERS | {"ETag": tag, "Cache-Control": "no-cache"}, "text/html; charset=utf-8")


async def part(server: Server, request: Request) -> Response:
    """``/page/VERSION/NAME``."""
    version, name = request.path_params["version"], request.path_params["name"]
    content = files().get(name)
    if content is None or version != stamp():
        raise ApiError(404, f"there is nothing at {request.url.path}: load the page anew")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(content, 200, headers, TYPES[Path(name).suffix])


@cache
def files() -> dict[str, bytes]:
    """Everything the page loads, by name."""
    return {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}


@cache
def stamp() -> str:
    """Changes when a file does."""
    digest = hashlib.sha256()
    for name, content in files().items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


@cache
def index() -> tuple[bytes, str]:
    """The document, with the addresses of its files, and its tag."""
    home = f"page/{stamp()}"
    links = [f'<link rel="stylesheet" href="{home}/{name}">' for name in files() if name.endswith(".css")]
    links += [f'<link rel="modulepreload" href="{home}/{name}">' for name in files() if name.endswith(".js")]
    html = (FOLDER / "index.html").read_text("utf-8").replace("{links}", "\n".join(links)).replace("{files}", home).encode()
    return html, f'"{hashlib.sha256(html).hexdigest()[:16]}"'
