"""The red-team suite: it holds against this server, and it notices a server that is open."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from engine_tiny import one_thread  # noqa: F401
from serve_tiny import serving

from seekling import cli
from seekling.conformance.target import Target
from seekling.redteam.cases import every, run_all
from seekling.serve.barriers import Barriers
from seekling.serve.guard import Doors
from seekling.serve.keys import Keys
from seekling.serve.moderation.moderator import Moderator
from seekling.serve.moderation.policy import load


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    keys = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    _, secret = keys.add("red", ["infer"])
    with serving(doors=Doors(keys), barriers=Barriers(Moderator(load("default")))) as it:
        heavy = ("a prompt of a million words", "20,000 messages", "5,000 tools", "sixty half requests")
        cases = [case for case in every() if case.name not in heavy]
        yield run_all(Target(it.url, "tiny", secret, 60), cases)


def test_there_are_at_least_eighty_attacks_in_every_category_asked_for():
    cases = every()
    assert len(cases) >= 80 and len({(case.category, case.name) for case in cases}) == len(cases)
    assert {case.category for case in cases} >= {
        "token injection", "template break-out", "system prompt leak", "tool-result injection", "personal data", "encoding",
        "denial of service", "schema bomb", "unicode", "auth bypass", "header tricks", "jailbreak wrapper",
    }  # fmt: skip


def test_no_wall_of_this_server_breaks(outcomes):
    assert [(o.category, o.name, o.note) for o in outcomes if o.verdict == "broken"] == []


def test_most_of_it_can_be_told_of_this_server(outcomes):
    assert sum(o.verdict == "skipped" for o in outcomes) < len(outcomes) / 4


class Open(BaseHTTPRequestHandler):
    """A server without walls: answers everybody, echoes everything, knows every origin, counts a mark as one token."""

    protocol_version = "HTTP/1.1"

    def _say(self, body, status=200):
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        if self.path == "/about":
            self._say({"moderation": "none really"})
        elif self.path == "/v1/models" and "Authorization" not in self.headers:
            self._say({}, 401)
        else:
            self._say({"data": [{"id": "open"}]})

    do_OPTIONS = do_GET

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            content = json.loads(raw)["messages"][-1]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            content = ""
        said = " ".join(str(turn.get("content")) for turn in json.loads(raw)["messages"]) if content else ""
        message = {"content": said}
        self._say({"choices": [{"message": message}], "usage": {"prompt_tokens": len(str(content).split())}})

    def log_message(self, *args):
        pass


def test_an_open_server_is_found_out():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Open)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    wanted = {"token injection", "auth bypass", "header tricks", "personal data", "system prompt leak", "jailbreak wrapper"}
    cases = [c for c in every() if c.category in wanted and "half requests" not in c.name and "smuggling" not in c.name]
    found = run_all(Target(url, "open", "k", 20), cases)
    server.shutdown()
    bad = {o.category for o in found if o.verdict in ("broken", "gave in")}
    assert bad == wanted
    assert sum(o.verdict == "broken" for o in found if o.category == "token injection") >= 10


def test_the_verb_wants_an_address_that_answers(capsys):
    assert cli.main(["redteam", "nowhere"]) == 2
    assert cli.main(["redteam", "http://127.0.0.1:9", "--only", "cats"]) == 2
    assert "auth bypass" in capsys.readouterr().err
    assert cli.main(["redteam", "http://127.0.0.1:9"]) == 2
    assert "does not answer" in capsys.readouterr().err
