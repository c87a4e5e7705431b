"""Who may come in: keys, other pages, other names of the host; health and metrics."""

from urllib.parse import urlsplit

from seekling.conformance.chat import PATH, ask
from seekling.conformance.checks import check
from seekling.conformance.target import Skipped, Target, need

POSTED = (
    "/v1/chat/completions /v1/completions /v1/embeddings /v1/responses /v1/messages /tokenize /detokenize /api/chat "
    "/api/generate /api/embed /completion /invocations"
).split()
READ = "/v1/models /metrics /slots /props /api/tags /api/ps".split()


@check("doors", "health answers 200")
def health(target: Target) -> None:
    status = target.get("/health").status
    need(status == 200, f"{status}")


@check("doors", "models are listed")
def models(target: Target) -> None:
    answer = target.get("/v1/models").json
    need(
        answer["object"] == "list" and all(row["id"] and row["object"] == "model" for row in answer["data"]),
        "no list of models",
    )
    need(target.model in [row["id"] for row in answer["data"]], f"{target.model!r} is not among them")


@check("doors", "with a key every route needs one")
def guarded(target: Target) -> None:
    if not target.key:
        raise Skipped("no --key was given")
    bare = Target(target.url, target.model, None, target.timeout)
    asked = [*(("POST", path) for path in POSTED), *(("GET", path) for path in READ)]
    away = (401, 403, 404, 405)
    open_ = [path for method, path in asked if bare.request(method, path, {} if method == "POST" else None).status not in away]
    need(not open_, f"without a key: {', '.join(open_)}")


@check("doors", "a wrong key is a 401")
def wrong_key(target: Target) -> None:
    if not target.key:
        raise Skipped("no --key was given")
    status = Target(target.url, target.model, target.key + "x", target.timeout).post(PATH, ask(target)).status
    need(status == 401, f"{status}")


@check("doors", "pages of other origins may not read answers", "should")
def origins(target: Target) -> None:
    answer = target.post(PATH, ask(target, max_tokens=1), {"Origin": "https://evil.example"})
    allowed = answer.headers.get("access-control-allow-origin")
    need(allowed not in ("*", "https://evil.example"), f"Access-Control-Allow-Origin: {allowed}")


@check("doors", "at home, another name of the host is turned away (DNS rebinding)", "should")
def hosts(target: Target) -> None:
    if urlsplit(target.url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise Skipped("this server is not at home")
    status = target.post(PATH, ask(target, max_tokens=1), {"Host": "evil.example"}).status
    need(status in (400, 403, 404, 421), f"answered {status}")


@check("doors", "metrics are in Prometheus' form", "should")
def metrics(target: Target) -> None:
    answer = target.get("/metrics")
    if answer.status in (401, 403, 404, 501):
        raise Skipped(f"answered {answer.status}")
    text = answer.raw.decode("utf-8")
    need("# TYPE " in text and answer.headers.get("content-type", "").startswith("text/plain"), "not in that form")
