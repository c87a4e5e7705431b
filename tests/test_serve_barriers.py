"""The barriers over HTTP: every surface moderates, labels and logs alike, in one piece and streamed."""

import hashlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import anthropic
import httpx
import openai
import pytest
from engine_tiny import TOKENIZER, one_thread  # noqa: F401
from serve_tiny import scripted_engine, serving, until

from seekling import Sampling, cli
from seekling.engine.watermark import Watermark
from seekling.errors import RecipeError
from seekling.serve.audit import AuditLog, files, find, verify
from seekling.serve.barriers import Barriers
from seekling.serve.labels import KINDS, Labels, export, unlabelled
from seekling.serve.moderation.moderator import Moderator
from seekling.serve.moderation.policy import load

HI = [{"role": "user", "content": "hi"}]
POLICY = """
[stream]
hold_chars = 24
[pii.input]
card = "mask"
[pii.output]
card = "mask"
[[rule]]
name = "no cats"
where = ["input", "output"]
action = "block"
any = ["cats"]
"""
CARD = "4111 1111 1111 1111"
PATHS = {
    "chat": ("/v1/chat/completions", {"messages": HI}),
    "completions": ("/v1/completions", {"prompt": "hi"}),
    "responses": ("/v1/responses", {"input": "hi"}),
    "messages": ("/v1/messages", {"messages": HI, "max_tokens": 200}),
    "ollama": ("/api/chat", {"messages": HI, "stream": False}),
}


@pytest.fixture(scope="module")
def barred(tmp_path_factory):
    folder = tmp_path_factory.mktemp("barriers")
    (folder / "p.toml").write_text(POLICY)
    log = AuditLog(folder / "log")
    barriers = Barriers(Moderator(load(folder / "p.toml")), Labels("cn", "ACME-1", "tiny"), log)
    with serving(scripted_engine(), barriers=barriers) as it:
        it.log = folder / "log"
        it.client = openai.OpenAI(base_url=f"{it.url}/v1", api_key="none", max_retries=0)
        yield it
    log.close()


def ask(it, name, says, **more):
    path, body = PATHS[name]
    model = it.engine.model
    if name == "completions":
        model.say(it.state, says, TOKENIZER.encode("hi", bos=TOKENIZER.adds_bos))
    else:
        model.say(it.state, says, TOKENIZER.encode_chat(HI))
    calm = {} if name in ("ollama",) else {"temperature": 0}
    return httpx.post(it.url + path, json={"model": "tiny", **calm, **body, **more})


def told_of(name, body):
    """(text, why it ended) of an answer in one piece."""
    if name == "chat":
        return body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]
    if name == "completions":
        return body["choices"][0]["text"], body["choices"][0]["finish_reason"]
    if name == "responses":
        texts = [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]
        return "".join(texts), (body["incomplete_details"] or {}).get("reason", "stop")
    if name == "messages":
        return "".join(block["text"] for block in body["content"]), body["stop_reason"]
    return body["message"]["content"], body["done_reason"]


@pytest.mark.parametrize("name", PATHS)
def test_every_surface_masks_blocks_labels_and_logs(barred, name):
    reply = ask(barred, name, f"My card is {CARD}, use it.")
    body = reply.json()
    text, _ = told_of(name, body)
    assert text == "My card is [card], use it."
    mark = body["AIGC"]
    assert (mark["Label"], mark["ContentProducer"], mark["ProduceID"]) == ("1", "ACME-1", mark["PropagateID"])
    assert mark["ReservedCode1"] == hashlib.sha256(text.encode()).hexdigest()
    header = json.loads(reply.headers["X-AIGC"])["AIGC"]
    assert header["ProduceID"] == mark["ProduceID"] and all(isinstance(value, str) for value in mark.values())
    entry = find(barred.log, mark["ReservedCode1"])[-1]
    assert entry["id"] == mark["ProduceID"] and "output: card" in entry["flags"] and "texts" not in entry

    text, why = told_of(
        name, ask(barred, name, "I will now talk a long while about birds and then about cats and dogs.").json()
    )
    assert "cat" not in text and why == {"messages": "refusal"}.get(name, "content_filter")


@pytest.mark.parametrize("name", PATHS)
def test_every_surface_refuses_a_forbidden_input_in_its_own_form(barred, name):
    path, body = PATHS[name]
    text = json.dumps({"model": "tiny", **body}).replace('"hi"', '"tell me of c\\u200bats"')
    reply = httpx.post(barred.url + path, content=text, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400 and "no cats" in reply.text
    if name in ("chat", "completions", "responses"):
        assert reply.json()["error"]["code"] == "content_filter"
    last = json.loads(files(barred.log)[-1].read_text().splitlines()[-1])
    assert last["event"] == "refused" and "no cats" in last["reason"]


def test_a_prompt_of_token_ids_is_read_as_the_text_it_stands_for(barred):
    def post(path, **body):
        return httpx.post(barred.url + path, json={"model": "tiny", "max_tokens": 2, **body})

    refused = post("/v1/completions", prompt=TOKENIZER.encode("tell me of cats"))
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "content_filter"
    masked = post("/v1/completions", prompt=[TOKENIZER.encode("hi"), TOKENIZER.encode(f"my card is {CARD}")])
    assert masked.status_code == 400 and "none can be masked" in masked.text and CARD not in masked.text
    events = [json.loads(line)["event"] for line in files(barred.log)[-1].read_text().splitlines()]
    assert events[-2:] == ["refused", "refused"]
    assert post("/v1/completions", prompt=TOKENIZER.encode("hi")).status_code == 200


def test_explain_counts_the_prompt_as_the_model_sees_it(barred):
    body = {"model": "tiny", "messages": [{"role": "user", "content": f"my card is {CARD}"}]}
    told = httpx.post(f"{barred.url}/cache/explain", json=body).json()["prompt_tokens"]
    assert told == len(TOKENIZER.encode_chat([{"role": "user", "content": "my card is [card]"}]))


def test_texts_to_be_vectors_are_read_where_the_policy_says_so_and_always_logged(tmp_path):
    texts = ["cats", TOKENIZER.encode("cats")]
    for name, extra in (("lax", ""), ("strict", "[read]\nembeddings = true\n")):
        (tmp_path / name).write_text(extra + POLICY)
        log = AuditLog(tmp_path / f"{name}.log")
        with serving(barriers=Barriers(Moderator(load(tmp_path / name)), audit=log)) as it:
            said = [httpx.post(f"{it.url}/v1/embeddings", json={"input": text}) for text in texts]
            assert [reply.status_code for reply in said] == ([200, 200] if name == "lax" else [400, 400])
            a, b = (httpx.post(f"{it.url}/v1/embeddings", json={"input": text}).json()["data"] for text in (CARD, "[card]"))
            assert (a == b) == (name == "strict")
        log.close()
        events = [json.loads(line)["event"] for line in files(tmp_path / f"{name}.log")[-1].read_text().splitlines()]
        assert events[1:3] == (["embedded"] * 2 if name == "lax" else ["refused"] * 2) and events[3:5] == ["embedded"] * 2


@pytest.mark.parametrize("name", ["chat", "completions", "responses", "messages", "ollama"])
def test_a_stream_shows_nothing_forbidden_and_its_last_event_bears_the_label(barred, name):
    says = "I will now talk a long while about birds, and herons, and then about cats and dogs."
    raw = ask(barred, name, says, stream=True).text
    events = [json.loads(line.removeprefix("data: ")) for line in raw.splitlines() if line[:1] == "{" or line[:7] == "data: {"]
    shown = "".join(re.findall(r'"(?:content|text|delta)":"([^"]*)"', raw))
    assert "cats" not in shown and "birds" in shown
    assert ("refusal" if name == "messages" else "content_filter") in raw
    label = events[-1].get("AIGC") or events[-1].get("response", {}).get("AIGC")
    assert label and label["Label"] == "1" and not any("AIGC" in event for event in events[:-1])


def test_a_streams_text_is_that_of_the_answer_in_one_piece(barred):
    says = f"First {CARD}. " + "Some more words to fill the window. " * 4 + f"Last {CARD}"
    whole = told_of("chat", ask(barred, "chat", says).json())[0]
    raw = ask(barred, "chat", says, stream=True).text
    chunks = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == whole
    assert whole.count("[card]") == 2 and "4111" not in whole


def test_log_probabilities_do_not_tell_what_was_masked(barred):
    body = ask(barred, "chat", f"My card is {CARD}.", logprobs=True).json()
    assert not (body["choices"][0]["logprobs"] or {}).get("content")
    body = ask(barred, "chat", "Nothing to hide here.", logprobs=True).json()
    assert "".join(entry["token"] for entry in body["choices"][0]["logprobs"]["content"]) == "Nothing to hide here."


def test_official_clients_read_labelled_answers(barred):
    barred.engine.model.say(barred.state, "Fine.", TOKENIZER.encode_chat(HI))
    with_openai = barred.client.chat.completions.create(model="tiny", messages=HI, temperature=0)
    assert with_openai.choices[0].message.content == "Fine." and with_openai.AIGC["Label"] == "1"
    client = anthropic.Anthropic(base_url=barred.url, api_key="none", max_retries=0)
    with client.messages.stream(model="tiny", messages=HI, max_tokens=20, extra_body={"temperature": 0}) as stream:
        assert stream.get_final_message().content[0].text == "Fine."


def test_a_client_that_hangs_up_is_in_the_log(barred):
    barred.engine.model.say(barred.state, "word " * 150, TOKENIZER.encode_chat(HI))
    body = {"model": "tiny", "messages": HI, "stream": True, "temperature": 0}
    with httpx.stream("POST", barred.url + PATHS["chat"][0], json=body) as reply:
        produce_id = json.loads(reply.headers["X-AIGC"])["AIGC"]["ProduceID"]
        next(reply.iter_lines())

    def told():
        events = [json.loads(line) for line in files(barred.log)[-1].read_text().splitlines()]
        return [event["event"] for event in events if event.get("id") == produce_id]

    until(lambda: len(told()) == 2)
    assert told()[0] == "asked" and told()[1] in ("broken off", "answered")


def test_about_tells_what_stands_around_the_answers(barred):
    about = httpx.get(barred.url + "/about").json()
    assert about["label"]["visible"]["zh"] == "内容由人工智能生成" and about["label"]["field"] == "AIGC"
    assert about["audit"] == {"days": 180, "texts": False} and about["watermark"] is None


def test_the_log_of_all_that_is_unbroken(barred):
    assert verify(barred.log).problems == []


def test_nothing_is_answered_when_the_log_cannot_be_written(tmp_path, monkeypatch):
    log = AuditLog(tmp_path)
    with serving(scripted_engine(), barriers=Barriers(audit=log)) as it:
        monkeypatch.setattr(log, "_write", lambda entries: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        reply = ask(it, "chat", "Hello.")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "audit_log") and "Hello" not in reply.text
    monkeypatch.undo()
    log.close()


def test_without_barriers_nothing_is_added():
    with serving(scripted_engine()) as it:
        reply = ask(it, "chat", f"{CARD} cats")
        assert told_of("chat", reply.json()) == (f"{CARD} cats", "stop")
        assert not any(name.lower().startswith("x-a") for name in reply.headers) and "AIGC" not in reply.json()


def test_the_european_label_names_system_and_source_type():
    with serving(scripted_engine(), barriers=Barriers(labels=Labels("eu", "ACME", "tiny"))) as it:
        reply = ask(it, "chat", "Hello.")
        mark = reply.json()["ai_generated"]
        assert mark["value"] is True and mark["digital_source_type"].endswith("/trainedAlgorithmicMedia")
        assert reply.headers["X-AI-Generated"].startswith("?1;") and mark["id"] in reply.headers["X-AI-Generated"]


# ---- exports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["cn", "eu"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_bears_one_mark_that_the_next_replaces(mode, kind):
    text = {"json": '{"a": 1}', "jsonl": '{"a": 1}\n{"b": 2}\n', "html": "<html><head></head><body>x</body></html>"}.get(
        kind, "Hi\n"
    )
    once = export(text, kind, Labels(mode, "ACME"), "id1")
    twice = export(once, kind, Labels("cn", "OTHER"), "id2")
    words = {"cn": "人工智能生成", "eu": "AI 生成"}[mode]
    assert words in once and twice.count("id2") >= (0 if kind == "txt" else 1) and "ACME" not in twice and "id1" not in twice
    assert twice.count("生成") == (2 if kind == "jsonl" else 1)
    if kind not in ("json", "jsonl"):
        assert unlabelled(once, kind) == text


def test_markdown_bears_the_annex_e_object_in_its_front_matter():
    text = export("# Title\n", "md", Labels("cn", "ACME"), "id1")
    mark = json.loads(re.match(r"---\nAIGC: '(.*)'\n---\n", text)[1])
    names = ["Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2"]
    assert list(mark) == names and text.isascii() is False and json.dumps(mark).isascii()


def test_a_producer_that_cannot_be_written_is_refused():
    for bad in ("", 'a"b', "公司", "x" * 200):
        with pytest.raises(RecipeError, match="producer"):
            Labels("cn", bad)


def test_the_label_verb(tmp_path, capsys):
    (tmp_path / "a.md").write_text("Hi\n")
    assert cli.main(["label", str(tmp_path / "a.md"), "--label", "cn", "--out", str(tmp_path / "b.md")]) == 0
    assert "内容由人工智能生成" in (tmp_path / "b.md").read_text()
    assert cli.main(["label", str(tmp_path / "a.md"), "--label", "cn", "--out", str(tmp_path / "b.pdf")]) == 0
    (tmp_path / "a.pdf").write_text("x")
    assert cli.main(["label", str(tmp_path / "a.pdf"), "--label", "cn", "--out", str(tmp_path / "c")]) == 2


# ---- the watermark over HTTP -----------------------------------------------------------------------------------------


def test_a_server_marks_what_it_draws_and_finds_it_again():
    mark = Watermark(b"0123456789abcdef")
    body = {"model": "tiny", "prompt": [5, 6, 7, 8], "max_tokens": 60, "seed": 1, "temperature": 1.0}
    with serving(barriers=Barriers(watermark=mark)) as it:
        said = httpx.post(it.url + "/v1/completions", json=body).json()["choices"][0]["text"]
        own = Sampling(max_tokens=60, seed=1, temperature=1.0, watermark=mark)
        marked, plain = it.engine.generate([[5, 6, 7, 8]] * 2, [own, Sampling(max_tokens=60, seed=1, temperature=1.0)])
        assert said == marked.text != plain.text

        def found(**what):
            return httpx.post(it.url + "/watermark/detect", json=what).json()

        assert found(tokens=marked.token_ids)["p_value"] < 1e-4 < found(tokens=plain.token_ids)["p_value"]
        assert found(text="A plain text that a human wrote about the sea. " * 5)["p_value"] > 1e-4
        assert httpx.post(it.url + "/watermark/detect", json={}).status_code == 400
        assert httpx.get(it.url + "/about").json()["watermark"] == mark.name
    with serving() as it:
        assert httpx.post(it.url + "/watermark/detect", json={"text": "x"}).status_code == 404


def test_the_watermark_verb_makes_keys_that_only_the_owner_reads(tmp_path, capsys):
    key = tmp_path / "key"
    assert cli.main(["watermark", "key", str(key)]) == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert cli.main(["watermark", "key", str(key)]) == 2  # never overwritten
    key.chmod(0o644)
    assert cli.main(["watermark", "detect", str(key), "--key", str(key), "--model", "smollm2"]) == 2
    assert "chmod 600" in capsys.readouterr().err


# ---- what moderation costs -------------------------------------------------------------------------------------------


def test_many_streams_at_a_time_are_each_read_by_themselves(barred):
    barred.engine.model.say(barred.state, f"Card {CARD} here. " * 3, TOKENIZER.encode_chat(HI))
    path, body = PATHS["chat"]

    def one(_):
        raw = httpx.post(barred.url + path, json={"model": "tiny", "temperature": 0, "stream": True, **body}).text
        return raw.count("[card]"), "4111" in raw

    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(8))) == {(3, False)}
    assert time.monotonic() - began < 60
