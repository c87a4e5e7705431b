"""``/v1/completions``: text continued, scored (``echo``) or filled in (``suffix``); several prompts in one request."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from seekling.engine.prompt import encode_prompts
from seekling.engine.sampling import Completion, Delta, Sampling
from seekling.errors import DataError
from seekling.serve.answers import Usage
from seekling.serve.asking import bad, drawing, room_for, stops, tenant_of
from seekling.serve.barriers import Record
from seekling.serve.chat import Head, token_bytes
from seekling.serve.clock import Clock
from seekling.serve.failures import reply
from seekling.serve.fields import CompletionRequest
from seekling.serve.reading import read_body, who
from seekling.serve.sse import DONE, Stream, data, unless_gone
from seekling.serve.state import Server
from seekling.text.special import FIM_BEGIN, FIM_END, FIM_HOLE, Mark

# What stands before the text, before its suffix and before the middle: DeepSeek's, Qwen's and StarCoder's marks.
FIM = (
    (FIM_BEGIN, FIM_HOLE, FIM_END),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)


async def completions(server: Server, request: Request) -> Response:
    """The endpoint."""
    body = await read_body(request, CompletionRequest)
    work = await run_in_threadpool(partial(Work, server, body, who(request)))
    head, headers = Head(work.model, "cmpl-" + work.record.id, body.model), work.record.headers
    if body.stream:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        work.submit()
        return Stream(work.stream(head, usage), keep_alive=server.keep_alive, headers=headers)
    work.submit()
    return reply(await unless_gone(request, work.whole(head)), headers=headers)


class Work:
    """The prompts of one request, checked.

    Raises:
        ApiError, SeeklingError: what is wrong, as a 400.
    """

    def __init__(self, server: Server, body: CompletionRequest, asker: Hashable):
        self.server, self.model, self.body = server, server.find(body.model), body
        self.tenant = tenant_of(asker, body.user_id, body.cache_salt)
        self.n = body.n or 1
        if body.best_of not in (None, self.n):
            raise bad("best_of", f"{body.best_of} differs from n={self.n}: this server draws n answers and shows all")
        self.none = body.max_tokens == 0  # only the prompt is to be scored
        if self.none and not body.echo:
            raise bad("max_tokens", "0 only with echo")
        if body.echo and body.stream and body.logprobs is not None:
            raise bad("echo", "with logprobs only without stream")
        if server.barriers.moderator is not None and body.stream and body.logprobs is not None:
            raise bad("logprobs", "not in a stream here, where answers are read before they are shown: leave out stream")
        self.asker, self.notes = asker, list[str]()
        self.ids = self._prompts()
        answers, most = len(self.ids) * self.n, self.model.engine.max_queue
        if answers > most:
            raise bad("n" if len(self.ids) <= most else "prompt", f"{answers} answers in all, and the queue holds {most}")
        self.samplings = [self._sampling(ids) for ids in self.ids]
        self.handles: list[Any] = []
        self.clocks: list[Clock] = []
        self.record = Record(
            server.barriers,
            prompts=self.ids,
            choices=len(self.ids) * self.n,
            greedy=self.samplings[0].greedy,
            asker=asker,
            model=self.model.name,
            notes=self.notes,
        )

    def submit(self) -> None:
        """Put all prompts into the queue, or none."""
        try:
            for ids, sampling in zip(self.ids, self.samplings, strict=True):
                adapter = self.model.adapter(self.body.model)
                self.handles.append(self.model.engine.submit(ids, sampling, tenant=self.tenant, adapter=adapter))
        except Exception:
            self.close()
            raise
        self.clocks = [Clock(self.server, self.model, handle, self.tenant) for handle in self.handles]

    def close(self) -> None:
        """Cancel what still runs."""
        for handle in self.handles:
            if not handle.done:
                handle.cancel()
        for clock in self.clocks:
            clock.stop()
        self.record.gone(self._usage().completion)

    def _prompts(self) -> list[list[int]]:
        given = self.body.prompt
        if given is None:
            raise bad("prompt", "is missing")
        many = isinstance(given, list) and not (given and isinstance(given[0], int))
        prompts: list[Any] = list(given) if many else [given]  # type: ignore[arg-type]
        if not 1 <= len(prompts) <= self.server.limits.prompts:
            raise bad("prompt", f"{len(prompts)} prompts; this server takes 1 to {self.server.limits.prompts}")
        if self.body.suffix is not None:
            if len(prompts) != 1 or not isinstance(prompts[0], str) or self.body.echo:
                raise bad("suffix", "takes one prompt of text, without echo")
            return [self._fim(self._read(prompts[0]), self._read(self.body.suffix))]
        prompts = [self._read(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        model = self.model
        encoded = encode_prompts(prompts, model.tokenizer, model.engine.config, thinking=False, must_fit=False)
        for prompt, ids in zip(prompts, encoded, strict=True):
            if not isinstance(prompt, str):
                self.server.barriers.ids(ids, model.tokenizer, self.notes, self.asker, "prompt")
        return encoded

    def _read(self, text: str) -> str:
        return self.server.barriers.text(text, self.notes, self.asker, "prompt")

    def _fim(self, before: str, after: str) -> list[int]:
        tokenizer = self.model.tokenizer
        marks = next((marks for marks in FIM if all(mark in tokenizer.special for mark in marks)), None)
        if marks is None:
            raise bad("suffix", "this model has no marks for filling in: leave it out")
        front = [tokenizer.bos_id] if tokenizer.adds_bos else []
        return front + tokenizer.encode_pieces([Mark(marks[0]), before, Mark(marks[1]), after, Mark(marks[2])])

    def _sampling(self, ids: list[int]) -> Sampling:
        wanted, asked = self.body.logprobs, self.body.model_copy(update={"max_tokens": 1} if self.none else {})
        return drawing(
            self.server,
            asked,
            room_for(self.model, ids, "prompt"),
            logprobs=wanted is not None,
            top_logprobs=wanted or 0,
            prompt_logprobs=bool(self.body.echo and wanted is not None),
            stop=stops(self.server, self.body),
        )

    # ---- answers ---------------------------------------------------------------------------------------------------

    async def whole(self, head: Head) -> dict[str, Any]:
        """All answers in one piece."""
        try:
            await self.record.began()
            for number, handle in enumerate(self.handles):
                async for delta in handle:
                    self._count(number, delta)
            choices = []
            for number, handle in enumerate(self.handles):
                for answer in [request.completion() for request in handle.requests]:
                    choices.append(self._choice(number, answer))
            await self.record.ended([choice["finish_reason"] for choice in choices], self._usage().completion)
        finally:
            self.close()
        return head.make("text_completion", choices=choices, usage=self._usage().openai(), **self.record.fields())

    async def stream(self, head: Head, usage: bool) -> AsyncIterator[bytes]:
        """Server-sent events; the answers to several prompts come mixed."""
        more: dict[str, Any] = {"usage": None} if usage else {}

        def chunk(index: int, text: str, finish: str | None, logprobs: Any, **label: Any) -> bytes:
            choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
            return data(head.make("text_completion", choices=[choice], **more, **label))

        coming: asyncio.Queue[tuple[int, Delta] | Exception | None] = asyncio.Queue(64)
        readers = [asyncio.ensure_future(self._pump(number, coming)) for number in range(len(self.handles))]
        places = {index: self._offsets() for index in range(len(self.handles) * self.n)}
        ended: dict[int, str] = {}
        try:
            await self.record.began()
            if self.body.echo:
                for index in places:
                    text = self._prompt_text(index // self.n)
                    places[index].place = len(text)
                    yield chunk(index, text, None, None)
            left = len(readers)
            while left:
                item = await coming.get()
                if item is None:
                    left -= 1
                    continue
                if isinstance(item, Exception):
                    raise item
                number, delta = item
                index, self_none = number * self.n + delta.index, self.none
                self._count(number, delta)
                if index in ended:  # by the policy; what comes after it is not shown
                    continue
                text, finish = self._shown(index, delta.text, delta.finish_reason)
                label: dict[str, Any] = {}
                if finish is not None:
                    ended[index] = finish
                    if len(ended) == len(places):
                        await self.record.ended([ended[place] for place in places], self._usage().completion)
                        label = {} if usage else self.record.fields()
                if text or finish or self.body.logprobs is not None:
                    logs = None
                    if self.body.logprobs is not None and delta.logprobs:
                        logs = self._logprobs(
                            delta.token_ids, list(delta.logprobs), delta.top_logprobs, places[index].of(delta.token_ids)
                        )
                    yield chunk(index, "" if self_none else text, finish, logs, **label)
                if finish == "content_filter":
                    self.handles[number].cancel(delta.index)
            if usage:
                label = self.record.fields()
                yield data(head.make("text_completion", choices=[], usage=self._usage().openai(), **label))
            yield DONE
        finally:
            self.close()
            for reader in readers:
                reader.cancel()

    def _shown(self, index: int, text: str, finish: str | None) -> tuple[str, str | None]:
        """Text and finish reason after the policy."""
        watched = self.record.choices[index]
        text = watched.text(text, finish is not None)
        if finish is not None and self.none:
            finish = "length"
        return text, "content_filter" if watched.blocked else _reason(finish)

    async def _pump(self, number: int, out: "asyncio.Queue[Any]") -> None:
        try:
            async for delta in self.handles[number]:
                await out.put((number, delta))
            await out.put(None)
        except Exception as error:
            await out.put(error)

    def _count(self, number: int, delta: Delta) -> None:
        self.clocks[number].count(delta)
        if delta.finish_reason is not None:
            self.server.counters[self.model].finished(_reason(delta.finish_reason) or "stop")

    def _usage(self) -> Usage:
        out = Usage()
        for handle in self.handles:
            tokens = 0 if self.none else sum(len(request.token_ids) for request in handle.requests)
            out += Usage(handle.prompt_tokens, handle.requests[0].cached_tokens, tokens)
        return out

    def _choice(self, number: int, answer: Completion) -> dict[str, Any]:
        ids, logs, tops = list(answer.token_ids), list(answer.logprobs or []), list(answer.top_logprobs or [])
        index = number * self.n + answer.index
        text, finish = self._shown(index, answer.text, answer.finish_reason)
        if self.none:
            ids, logs, tops, text = [], [], [], ""
        tops = tops or [[] for _ in ids]
        front: list[float | None] = []
        offsets: list[int] = []
        if self.body.echo:
            prompt = self.ids[number]
            text = self._prompt_text(number) + text
            front = list(answer.prompt_logprobs or [None] * len(prompt))
            tops = list(answer.prompt_top_logprobs or [[]] * len(prompt)) + tops
            offsets = self._offsets(prompt=True).of(prompt)
        offsets += self._offsets(len(self._prompt_text(number)) if self.body.echo else 0).of(ids)
        ids = self.ids[number] + ids if self.body.echo else ids
        logprobs = None
        watched = self.record.choices[index]
        if self.body.logprobs is not None and not (watched.masked or watched.blocked):  # they would name the tokens
            logprobs = self._logprobs(ids, front + logs, tops, offsets)
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    def _prompt_text(self, number: int) -> str:
        ids = self.ids[number]
        tokenizer = self.model.tokenizer
        return tokenizer.decode(ids[1:] if ids and ids[0] == tokenizer.bos_id else ids, skip_special=False)

    def _offsets(self, place: int = 0, prompt: bool = False) -> "Offsets":
        return Offsets(self.model.tokenizer, place, prompt)

    def _logprobs(
        self, ids: list[int], logs: list[Any], tops: list[list[tuple[int, float]]] | None, offsets: list[int]
    ) -> dict[str, Any]:
        """OpenAI's old form: parallel lists; a token that is no whole character is written as its bytes.

        The token that ended the answer is among them, though not in the text: clients count on one more than the prompt's.
        """
        return {
            "tokens": [self._word(token) for token in ids],
            "token_logprobs": [None if value is None else max(value, -9999.0) for value in logs],
            "top_logprobs": [{self._word(t): max(p, -9999.0) for t, p in top} or None for top in tops or [[] for _ in ids]],
            "text_offset": offsets,
        }

    def _word(self, token: int) -> str:
        raw = token_bytes(self.model, token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class Offsets:
    """Where the tokens of a text begin in it. What it leaves out (special tokens, a prompt's first mark) has no length."""

    def __init__(self, tokenizer: Any, place: int, prompt: bool):
        self.place, self._bos = place, tokenizer.bos_id if prompt else None
        self._stream = tokenizer.stream(skip_special=not prompt)

    def of(self, ids: Iterable[int]) -> list[int]:
        """Of further tokens; one within a character stands where that begins."""
        out = []
        for token in ids:
            out.append(self.place)
            if token != self._bos:
                with suppress(DataError):  # a vocabulary padded beyond its tokenizer's: such ids have no text
                    self.place += len(self._stream.push(token))
            self._bos = None
        return out


def _reason(reason: str | None) -> str | None:
    return None if reason is None else "length" if reason == "length" else "stop"
