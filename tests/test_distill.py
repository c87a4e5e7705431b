"""Distillation: divergences against full logits, traces that are right, teachers here and behind an API, runs that resume."""

import dataclasses
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
import torch
from oracle_models import one_thread  # noqa: F401
from teach_tiny import SUMS, save_base, weights, write_rows

import seekling
from seekling.cli import main
from seekling.errors import DataError, RecipeError, SeeklingError
from seekling.kernels.divergence import LinearDivergence
from seekling.lm import LM
from seekling.model import Decoder
from seekling.train.distill import distill, resume
from seekling.train.distill_recipe import DistillRecipe
from seekling.train.log import read_log
from seekling.train.traces import chosen


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_chunked_divergence_equals_full_logits_with_gradient(reverse, temperature):
    g = torch.Generator().manual_seed(0)
    h, w = (torch.randn(n, 5, generator=g, dtype=torch.float64, requires_grad=True) for n in (7, 11))
    th, tw = torch.randn(7, 3, generator=g, dtype=torch.float64), torch.randn(13, 3, generator=g, dtype=torch.float64)
    s = torch.log_softmax(h @ w.t() / temperature, -1)
    t = torch.log_softmax(th @ tw[:11].t() / temperature, -1)  # the teacher's table is padded to 13
    want = ((s.exp() * (s - t)) if reverse else (t.exp() * (t - s))).sum(-1)
    expected = torch.autograd.grad(0.3 * want.sum(), (h, w))
    loss, each = LinearDivergence.apply(h, w, th, tw, 0.3, reverse, temperature, 3)
    found = torch.autograd.grad(loss, (h, w))
    assert torch.allclose(each, want) and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_a_model_is_no_distance_from_itself():
    h, w = torch.randn(4, 5), torch.randn(9, 5)
    assert LinearDivergence.apply(h, w, h, w, 1.0, True, 1.0, 2)[1].abs().max() < 1e-6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A student, a wider teacher of the same vocabulary, and a stranger with another."""
    student, teacher, stranger = (tmp_path_factory.mktemp(name) for name in ("student", "teacher", "stranger"))
    return {
        "student": save_base(student, SUMS, max_position_embeddings=256),
        "teacher": save_base(teacher, SUMS, max_position_embeddings=256, seed=2, hidden_size=24),
        "stranger": save_base(stranger, "another alphabet altogether, zyx wvu ", max_position_embeddings=256, seed=3),
    }


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    lines = [{"prompt": f"what is {i} + 2?", "completion": f"the answer is {i + 2}"} for i in range(20)]
    return write_rows(tmp_path_factory.mktemp("talks") / "talks.jsonl", lines)


@pytest.fixture
def right_with_e(monkeypatch):
    """Any reply that holds an e is right, so that a random model gets something right."""
    from seekling.tasks.base import Reward
    from seekling.train import judging

    def pays(task, problem, reply, **_):
        return Reward(float("e" in reply), 1.0, float("e" in reply))

    monkeypatch.setattr(judging, "reward_of", pays)


def recipe(models, out, **more):
    values = dict(
        model=str(models["student"]), teacher=str(models["teacher"]), out=str(out), steps=4, save_every=2, keep=0, lr=5e-3,
        dtype="float32", max_tokens=6, batch_size=4, problems=4, group=3, eval_problems=4, tagged=False, asked=12,
    )  # fmt: skip
    return DistillRecipe.of(**{**values, **more})


def assert_resumes(run):
    final = run / "checkpoints" / "step-000004"
    want = weights(final)
    shutil.rmtree(final)
    resume(run)
    assert weights(final) == want and want
    assert weights(run / "checkpoints" / "step-000002") != want


@pytest.mark.usefixtures("right_with_e")
def test_traces_are_right_answers_and_the_run_resumes_bit_for_bit(models, tmp_path):
    run = distill(recipe(models, tmp_path / "run", tasks=["letters"], lora=4, max_tokens=40))
    draws = read_log(run / "draws.jsonl")
    kept = [json.loads(line)["messages"] for line in (run / "traces.jsonl").read_text("utf-8").splitlines()]
    solved = [d for d in draws if any(r["right"] and not r["cut"] and r["content"] for r in d["replies"])]
    assert len(draws) == 12 and len(kept) == len(solved) > 0
    assert all("e" in messages[-1]["content"] for messages in kept)
    lines = read_log(run / "log.jsonl")
    assert next(line for line in lines if line["kind"] == "event")["answers"] == 36
    assert [line["step"] for line in lines if line["kind"] == "tasks"] == [0, 4]
    assert_resumes(run)


@pytest.mark.usefixtures("right_with_e")
def test_a_stopped_teacher_goes_on_behind_its_last_answers(models, tmp_path, monkeypatch):
    from seekling.train import teacher, traces

    whole = distill(recipe(models, tmp_path / "whole", tasks=["letters"], max_tokens=40))
    asked, real = [], teacher.EngineTeacher.ask

    def stops(self, talks, group, seed):
        asked.append(len(talks))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(self, talks, group, seed)

    monkeypatch.setattr(teacher.EngineTeacher, "ask", stops)
    with pytest.raises(KeyboardInterrupt):
        distill(recipe(models, tmp_path / "run", tasks=["letters"], max_tokens=40))
    assert len(read_log(tmp_path / "run" / "draws.jsonl")) == 4 and traces.counts([])["answers"] == 0
    run = resume(tmp_path / "run")
    assert (run / "traces.jsonl").read_bytes() == (whole / "traces.jsonl").read_bytes()
    assert weights(run / "checkpoints" / "step-000004") == weights(whole / "checkpoints" / "step-000004")


@pytest.mark.parametrize("more", [{}, {"divergence": "reverse", "lora": 4, "hard": 0.3}])
def test_learning_the_distribution_brings_it_nearer_and_resumes(models, talks, tmp_path, more):
    run = distill(recipe(models, tmp_path / "run", method="logits", data=[talks], lr=2e-2, **more))
    found = [line["kl"] for line in read_log(run / "log.jsonl") if line["kind"] == "eval"]
    assert found[-1] < found[0] and DistillRecipe.load(run).start.resolved
    assert_resumes(run)


@pytest.mark.parametrize("more", [{"tasks": ["letters"]}, {"lora": 4, "data": True}])
def test_on_policy_the_student_nears_the_teacher_on_its_own_words_and_resumes(models, talks, tmp_path, more):
    more = {**more, **({"data": [talks]} if "data" in more else {})}
    run = distill(recipe(models, tmp_path / "run", method="on-policy", lr=2e-2, **more))
    lines = [line for line in read_log(run / "log.jsonl") if line["kind"] == "step"]
    assert lines[-1]["kl"] < lines[0]["kl"]
    assert_resumes(run)


def test_only_right_complete_different_answers_are_kept():
    reply = dict(reasoning="", right=True, cut=False, tokens=1)
    draw = {
        "messages": [{"role": "user", "content": "q"}],
        "replies": [
            {**reply, "content": "wrong", "right": False}, {**reply, "content": "a"}, {**reply, "content": "a"},
            {**reply, "content": "long", "cut": True}, {**reply, "content": "b", "reasoning": "because"},
            {**reply, "content": "c"},
        ],
    }  # fmt: skip
    kept = [trace["messages"][-1] for trace in chosen(draw, 2)]
    assert [m["content"] for m in kept] == ["a", "b"] and kept[1]["reasoning_content"] == "because"


class Api(BaseHTTPRequestHandler):
    """A tiny OpenAI-compatible server: the first chat call is told to come again, a letter question is answered right."""

    seen: ClassVar[list[dict]] = []
    failures = 1

    def do_GET(self):
        self._send(200, {"data": [{"id": "big-teacher"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != "Bearer sesame":
            return self._send(401, {"error": "no key"})
        if Api.failures:
            Api.failures -= 1
            return self._send(429, {"error": "slow down"}, {"Retry-After": "0"})
        Api.seen.append(body)
        question = body["messages"][-1]["content"]
        letter, words = question.split("letter ")[1].split(" occur in ")
        right = words.split("?")[0].count(letter)
        message = {"role": "assistant", "content": f"<think>counting</think>{right}"}
        self._send(200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 7}})

    def _send(self, status, value, headers=None):
        raw = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


@pytest.fixture
def api(monkeypatch):
    Api.seen, Api.failures = [], 1
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TEACHER_KEY", "sesame")
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_any_openai_compatible_api_teaches(models, api, tmp_path):
    run = distill(recipe(models, tmp_path / "run", teacher=api, teacher_key="TEACHER_KEY", tasks=["letters"], asked=6, group=1))
    assert len(Api.seen) == 6 and {body["model"] for body in Api.seen} == {"big-teacher"}
    assert len({body["seed"] for body in Api.seen}) == 6
    kept = [json.loads(line)["messages"][-1] for line in (run / "traces.jsonl").read_text("utf-8").splitlines()]
    assert len(kept) == 6 and all(m["reasoning_content"] == "counting" and m["content"].isdigit() for m in kept)


def test_a_refused_key_ends_the_run_at_once(models, api, tmp_path):
    with pytest.raises(SeeklingError, match=r"401.*key"):
        distill(recipe(models, tmp_path / "run", teacher=api, teacher_key="NO_SUCH_KEY", tasks=["letters"]))
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_a_teacher_whose_context_is_too_short_is_named_as_the_one(models, talks, tmp_path):
    lm = seekling.load(models["teacher"])
    short = dataclasses.replace(lm.config, max_position_embeddings=12)
    LM(Decoder.build(short, seed=3), lm.tokenizer).save(tmp_path / "short")
    more = dict(teacher=str(tmp_path / "short"), data=[talks])
    with pytest.raises(RecipeError, match=r"teacher .*short reads rows of 12 tokens at most.*--seq-len 12"):
        distill(recipe(models, tmp_path / "run", method="logits", **more))
    with pytest.raises(RecipeError, match=r"the teacher: a row of \d+ tokens is longer than the model's 12"):
        distill(recipe(models, tmp_path / "run", method="on-policy", max_tokens=40, **more))


def test_problems_are_named_before_anything_starts(models, talks, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="another vocabulary"):
        distill(recipe(models, tmp_path / "run", teacher=str(models["stranger"]), method="logits", data=[talks]))
    with pytest.raises(RecipeError, match="--method traces"):
        recipe(models, tmp_path / "run", teacher="https://host/v1", method="on-policy", tasks=["letters"])
    with pytest.raises(RecipeError, match="contradict"):
        recipe(models, tmp_path / "run", tasks=["letters"], data=[talks])
    with pytest.raises(DataError, match="--tasks"):
        distill(recipe(models, tmp_path / "run"))
    from seekling.tasks.base import Reward
    from seekling.train import judging

    monkeypatch.setattr(judging, "reward_of", lambda *a, **k: Reward(0.0, 0.0, 0.0))
    with pytest.raises(DataError, match="take another teacher"):
        distill(recipe(models, tmp_path / "run", tasks=["letters"]))


def test_the_verb_distils_and_resumes(models, talks, tmp_path, capsys):
    out = tmp_path / "run"
    flags = [
        "--model",
        models["student"],
        "--teacher",
        models["teacher"],
        "--method",
        "logits",
        "--data",
        talks,
        "--steps",
        "2",
    ]
    assert main(["distill", *map(str, flags), "--lora", "2", "--out", str(out)]) == 0
    assert "seekling chat" in capsys.readouterr().out
    assert main(["distill", "--resume", str(out)]) == 0
    assert main(["distill", "--model", "x", "--out", str(tmp_path / "no")]) == 2
