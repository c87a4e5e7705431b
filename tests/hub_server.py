"""A stand-in for a model hub: both dialects over real sockets, with the faults of real links on demand."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """What the server holds and how it misbehaves.

    Attributes:
        files: path -> bytes; those of more than 1,000 bytes count as LFS.
        listed: entries to add to the listing as they are.
        wrong: paths whose content is served altered, how many times.
        cut: path -> bytes after which the connection is dropped, once each value.
        statuses: answers to give before anything else, (status, headers), one a request that fits ``only``.
        ranges: whether Range is understood; "lie" answers 206 from another place.
        token: without which every answer is 401.
        cdn: base address that LFS content is redirected to.
    """

    def __init__(self, files=None, repository="some/model"):
        self.files, self.repository = dict(files or {}), repository
        self.listed, self.wrong, self.cut, self.statuses = [], {}, {}, []
        self.only, self.ranges, self.token, self.cdn, self.commit = "", True, None, None, "c0ffee"
        self.requests = []

    def __enter__(self):
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def asked(self, part):
        """Requests whose path has this part: (path, headers)."""
        return [(path, headers) for path, headers in self.requests if part in path]

    # ---- answers -------------------------------------------------------------------------------------------------

    def hf(self):
        siblings = []
        for path, content in self.files.items():
            entry = {"rfilename": path, "size": len(content), "blobId": git_sha1(content)}
            if len(content) > 1000:
                entry["lfs"] = {"size": len(content), "sha256": sha256(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": self.repository, "sha": self.commit, "siblings": siblings + self.listed, "cardData": {"license": "mit"}}

    def modelscope(self):
        files = [{"Path": "sub", "Name": "sub", "Type": "tree", "Size": 0}]
        for path, content in self.files.items():
            files.append({"Path": path, "Type": "blob", "Size": len(content), "Sha256": sha256(content), "Revision": "cafe"})
        return {"Code": 200, "Success": True, "Data": {"Files": files + self.listed}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        return

    def do_GET(self):
        hub = self.hub
        if self.path.startswith("http://"):  # asked as a proxy
            self.path = "/proxied" + urlsplit(self.path)._replace(scheme="", netloc="").geturl()
        hub.requests.append((self.path, dict(self.headers)))
        parts = urlsplit(self.path.removeprefix("/proxied"))
        path, query = parts.path, parse_qs(parts.query)
        if hub.statuses and hub.only in path:
            status, headers = hub.statuses.pop(0)
            return self.answer(status, json.dumps({"error": "as the test asked"}).encode(), headers)
        if hub.token and not path.startswith("/cdn/") and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer(401, b"{}", {"X-Error-Message": "Access to this model is restricted"})
        if path.startswith("/cdn/"):
            return self.content(unquote(path.removeprefix("/cdn/")))
        if path.startswith(f"/api/models/{hub.repository}/revision/"):
            return self.answer(200, json.dumps(hub.hf()).encode())
        if path == f"/api/v1/models/{hub.repository}/repo/files":
            return self.answer(200, json.dumps(hub.modelscope()).encode())
        if path == f"/api/v1/models/{hub.repository}/repo":
            return self.content(query["FilePath"][0])
        start = f"/{hub.repository}/resolve/{hub.commit}/"
        if path.startswith(start):
            name = unquote(path.removeprefix(start))
            if hub.cdn and len(hub.files.get(name, b"")) > 1000:
                return self.answer(302, b"", {"Location": f"{hub.cdn}/cdn/{name}"})
            return self.content(name)
        return self.answer(404, json.dumps({"error": "Repository not found"}).encode())

    def content(self, name):
        hub = self.hub
        if name not in hub.files:
            return self.answer(404, b"{}")
        content = hub.files[name]
        if hub.wrong.get(name, 0) > 0:
            hub.wrong[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, headers, first = 200, {}, 0
        asked = self.headers.get("Range")
        if asked and hub.ranges:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                return self.answer(416, b"{}", {"Content-Range": f"bytes */{len(content)}"})
            first = 0 if hub.ranges == "lie" else first
            status, headers = 206, {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        body = content[first:]
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        stop = hub.cut.get(name, [])
        if stop:
            self.wfile.write(body[: stop.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        self.wfile.write(body)
        return None

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def two_hubs(files):
    """A hub whose large files lie at a second origin."""
    with Hub(files) as hub, Hub(files) as cdn:
        hub.cdn = cdn.url
        yield hub, cdn
