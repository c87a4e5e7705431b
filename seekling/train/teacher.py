"""Teachers that answer in text: a model here, drawn from by the engine, or any OpenAI-compatible API.

>>> teacher = open_teacher(recipe, say)
>>> teacher.ask([[{"role": "user", "content": "What is 2 + 3?"}]], group=4, seed=0)[0]
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from seekling.errors import DataError, SeeklingError
from seekling.train.distill_recipe import DistillRecipe

Talk = Sequence[Mapping[str, Any]]
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # statuses that trying again may mend
TRIES, TIMEOUT, LONGEST_WAIT = 5, 600.0, 60.0


@dataclass(frozen=True)
class Reply:
    """One answer; ``cut``: it ended at the limit. ``tokens`` is 0 where an API does not tell."""

    content: str
    reasoning: str
    cut: bool
    tokens: int


class Teacher(Protocol):
    """Whoever answers conversations."""

    name: str

    def ask(self, talks: Sequence[Talk], group: int, seed: int) -> list[list[Reply]]:
        """``group`` answers to each conversation; the same seed asks for the same draws."""
        ...


def open_teacher(recipe: DistillRecipe, say: Callable[[str], None] = lambda line: None) -> Teacher:
    """The teacher that a recipe names.

    Raises:
        SeeklingError: there is none, or it cannot be reached.
    """
    return ApiTeacher(recipe, say) if recipe.remote else EngineTeacher(recipe)


class EngineTeacher:
    """A model of this machine."""

    def __init__(self, recipe: DistillRecipe):
        from seekling.engine import Engine

        quant: Any = recipe.draw.rollout_quant or None
        runner: Any = recipe.draw.rollout
        rows = min(64, recipe.practice.problems * recipe.practice.group)
        self.recipe, self.name = recipe, recipe.teach.teacher
        self.engine = Engine(self.name, quant, runner=runner, max_rows=rows)
        if self.engine.tokenizer is None:
            raise DataError(f"{self.name} has no tokenizer, which a teacher needs; give a model folder with tokenizer.json")

    def ask(self, talks: Sequence[Talk], group: int, seed: int) -> list[list[Reply]]:
        from seekling.engine import Sampling
        from seekling.engine.prompt import encode_prompts

        draw, engine = self.recipe.draw, self.engine
        settings = [
            Sampling(draw.max_tokens, draw.temperature, n=group, seed=(seed + 131 * i) % 2**62, logprobs=False)
            for i in range(len(talks))
        ]
        prompts = encode_prompts(talks, engine.tokenizer, engine.config, thinking=self.recipe.practice.think)
        found = engine.generate(prompts, settings)
        out: list[list[Reply]] = [[] for _ in talks]
        for i, completion in enumerate(found):
            parser = engine.tokenizer.reply_parser(prompts[i // group])
            parser.push_tokens(completion.token_ids)
            parser.finish()
            said, cut = parser.message(), completion.finish_reason == "length"
            out[i // group].append(Reply(said["content"], said.get("reasoning_content", ""), cut, len(completion.token_ids)))
        return out


class ApiTeacher:
    """``POST URL/chat/completions``, one request a draw; what may pass is tried again.

    The key is read from the environment and goes to that address only; redirects are not followed.
    """

    def __init__(self, recipe: DistillRecipe, say: Callable[[str], None]):
        teach = recipe.teach
        self.recipe, self.say, self.url = recipe, say, teach.teacher.rstrip("/")
        key = os.environ.get(teach.teacher_key, "")
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.opener = urllib.request.build_opener(_Stay())
        self.name = teach.teacher_model or self._first_model()

    def _first_model(self) -> str:
        try:
            return str(self._call("/models", None)["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise DataError(f"{self.url}/models lists no model; name one with --teacher-model") from None

    def ask(self, talks: Sequence[Talk], group: int, seed: int) -> list[list[Reply]]:
        calls = [(talk, seed + 131 * i + j) for i, talk in enumerate(talks) for j in range(group)]
        with ThreadPoolExecutor(self.recipe.teach.teacher_calls) as pool:
            replies = list(pool.map(lambda call: self._ask(*call), calls))
        return [replies[i : i + group] for i in range(0, len(replies), group)]

    def _ask(self, talk: Talk, seed: int) -> Reply:
        draw = self.recipe.draw
        body = {
            "model": self.name, "messages": list(talk), "max_tokens": draw.max_tokens, "temperature": draw.temperature,
            "seed": seed % 2**31,
        }  # fmt: skip
        answer = self._call("/chat/completions", body)
        try:
            choice = answer["choices"][0]
            message = choice["message"]
            content = message.get("content") or ""
            reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
            tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise DataError(f"{self.url} does not answer as a chat API does: {json.dumps(answer)[:200]}") from None
        if not reasoning and content.lstrip().startswith("<think>") and "</think>" in content:
            reasoning, content = content.lstrip().removeprefix("<think>").split("</think>", 1)
        return Reply(content.strip(), reasoning.strip(), choice.get("finish_reason") == "length", tokens)

    def _call(self, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(TRIES):
            request = urllib.request.Request(self.url + path, data, self.headers)
            wait = min(LONGEST_WAIT, 2.0**attempt)
            try:
                with self.opener.open(request, timeout=TIMEOUT) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace').strip()}"
                if error.code not in PASSING:
                    raise SeeklingError(f"{self.url}{path} refuses: {why}; check --teacher, its model and key") from None
                asked = error.headers.get("Retry-After", "")
                wait = min(LONGEST_WAIT, float(asked)) if asked.replace(".", "", 1).isdigit() else wait
            except ValueError:
                raise DataError(f"{self.url}{path} does not answer with JSON; check --teacher (it ends in /v1)") from None
            except (OSError, http.client.HTTPException) as error:
                why = str(error)
            if attempt < TRIES - 1:
                if wait >= 4:
                    self.say(f"{self.url}: {why}; again in {wait:g} s")
                time.sleep(wait)
        raise SeeklingError(f"{self.url}{path} cannot be reached ({why}); check --teacher, or go on later with --resume")


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
