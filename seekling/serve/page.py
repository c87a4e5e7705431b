"""The page at ``/``: one file, which may run and ask nothing but what it brings and where it came from.

Its policy names the hashes of its one script and one style, so that nothing put into it later would run.
"""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from seekling.serve.state import Server


async def page(server: Server, request: Request) -> Response:
    """The endpoint."""
    html, policy = content()
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return Response(html, 200, headers | {"X-Frame-Options": "DENY"}, "text/html; charset=utf-8")


@cache
def content() -> tuple[str, str]:
    """The page and its policy."""
    html = Path(__file__).with_name("page.html").read_text("utf-8")
    allowed = ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        inner = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inner]
        allowed.append(f"{rule} " + " ".join(f"'sha256-{digest}'" for digest in hashes))
    return html, "; ".join(allowed)
