"""`seekling release push` against a stand-in of a hub that takes commits, over a real socket with the official client."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from seekling.cli import main
from seekling.release.layout import sums_text


class Hub(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks when it makes a repository and commits small files."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.server.refuse:
            self.answer(401, {"error": "no such token"})
        elif self.path == "/api/repos/create":
            self.answer(200, {"url": f"{self.server.address}/me/tiny"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(200, {"commitUrl": f"{self.server.address}/me/tiny/commit/c0ffee", "commitOid": "c0ffee"})
        else:
            self.answer(404, {"error": self.path})

    def do_GET(self):
        self.server.asked.append((self.path, None))
        if self.server.refuse:
            return self.answer(401, {"error": "no such token"})
        self.answer(200, {"id": "me/tiny", "sha": "c0ffee", "siblings": [], "tags": []})

    def answer(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.files, server.asked, server.refuse = {}, [], False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    """As much of a release as pushing looks at."""
    (tmp_path / "data").mkdir()
    for name, text in {"release.json": '{"name": "tiny"}', "README.md": "# tiny\n", "data/heldout.jsonl": "{}\n"}.items():
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "SHA256SUMS").write_text(sums_text(tmp_path), "utf-8")
    return tmp_path


def test_every_file_arrives_in_one_commit(hub, folder, capsys):
    assert main(["release", "push", str(folder), "--to", "me/tiny", "--endpoint", hub.address]) == 0
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == hub.files
    assert len([path for path, _ in hub.asked if "/commit/" in path]) == 1
    assert all(token == "Bearer hf_test" for path, token in hub.asked if "/commit/" in path or "create" in path)
    assert "me/tiny" in capsys.readouterr().out


def test_changed_missing_and_further_files_are_named_before_anything_is_sent(hub, folder, capsys):
    (folder / "README.md").write_text("changed", "utf-8")
    (folder / "data/heldout.jsonl").unlink()
    (folder / "notes.txt").write_text("mine", "utf-8")
    assert main(["release", "push", str(folder), "--to", "me/tiny", "--endpoint", hub.address]) == 2
    error = capsys.readouterr().err
    assert "README.md was changed" in error and "data/heldout.jsonl is missing" in error and "notes.txt is not listed" in error
    assert hub.asked == []


def test_hub_that_refuses_is_one_line(hub, folder, capsys):
    hub.refuse = True
    assert main(["release", "push", str(folder), "--to", "me/tiny", "--endpoint", hub.address]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the hub did not take it") and "HF_TOKEN" in error and error.count("\n") == 1


def test_name_of_no_repository_is_refused(folder, capsys):
    assert main(["release", "push", str(folder), "--to", "tiny"]) == 2
    assert "is no OWNER/NAME" in capsys.readouterr().err
