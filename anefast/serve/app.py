"""HTTP: OpenAI's routes over a `Worker`. Every error is JSON in their form.

A request costs a bounded amount: its body, its texts, the line it waits in. One whose client has
left is cancelled, wherever it is.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from anefast.decode import Made, Said
from anefast.errors import shown
from anefast.model import Model
from anefast.parsing import parse_json
from anefast.serve.answers import Answer
from anefast.serve.asking import Refusal, Wish, read_wish
from anefast.serve.worker import Full, Job, Part, Worker

BODY_BYTES = 1 << 20
BODY_SECONDS = 30.0  # within which a body has to be there
JSON_TYPE = "application/json"  # another one, a page of any site could send unasked

Parts = asyncio.Queue[Part | Exception]


@dataclass(frozen=True)
class Service:
    """The objects that the routes share. side: the most texts of a request; tokens: of a text that
    does not say how many. started: seconds since 1970."""

    model: Model
    name: str
    worker: Worker
    side: int
    tokens: int
    started: int = field(default_factory=lambda: int(time.time()))

    async def answer(self, request: Request, chat: bool) -> Response | Events:
        """One of the two endpoints."""
        value = await body_of(request)
        wish, job, parts = await asyncio.to_thread(
            self._job, value, chat, asyncio.get_running_loop()
        )
        try:
            self.worker.submit(job)
        except Full:
            raise Refusal(
                503, f"[serve] the queue is full: {self.worker.waiting} requests are waiting."
            ) from None
        told = Answer(wish, self.name, self.model.tokenizer)
        coming = self._coming(request, job, parts)
        if wish.stream:
            return Events(told, coming)
        async with aclosing(coming):
            async for part in coming:
                told.add(part)
        return JSONResponse(told.whole() if told.done else {}, 200 if told.done else 499)

    def _job(
        self, value: Any, chat: bool, loop: asyncio.AbstractEventLoop
    ) -> tuple[Wish, Job, Parts]:
        """Reads a body and makes the job. Not on the loop's thread: texts are encoded."""
        model, parts = self.model, Parts()
        wish = read_wish(value, chat, model, self.name, self.side, self.tokens)
        ends = model.chat().ends if chat else ()
        texts = [
            model.text(
                ids, replace(wish.choice, seed=wish.choice.seed + i), wish.tokens, ends,
                made=Made(keeps=wish.logs, wanted=wish.top), device=self.worker.device,
            )
            for ids in wish.prompts
            for i in range(wish.n)
        ]  # fmt: skip
        prompts = [() if chat else ids for ids in wish.prompts for _ in range(wish.n)]
        said = [Said(model.tokenizer, wish.stops, prompt) for prompt in prompts]

        def deliver(part: Part | Exception) -> None:
            try:
                loop.call_soon_threadsafe(parts.put_nowait, part)
            except RuntimeError:  # the loop has ended, and with it whoever asked
                job.cancelled = True

        job = Job(texts, said, deliver)
        return wish, job, parts

    async def _coming(self, request: Request, job: Job, parts: Parts) -> AsyncGenerator[Part, None]:
        """A job's parts up to the last; fewer where the client leaves. The job is over then."""
        left = len(job.texts)
        gone = asyncio.ensure_future(leaves(request))
        try:
            while left:
                coming = asyncio.ensure_future(parts.get())
                await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    return
                part = coming.result()
                if isinstance(part, Full):
                    raise Refusal(503, "[serve] the server is shutting down.")
                if isinstance(part, Exception):
                    raise Refusal(500, f"[serve] the evaluation failed: {shown(part)}")
                left -= part.finish is not None
                yield part
        finally:
            gone.cancel()
            self.worker.cancel(job)


class Events:
    """An answer as server-sent events, a chunk per part (an ASGI application)."""

    def __init__(self, told: Answer, coming: AsyncGenerator[Part, None]) -> None:
        self._told, self._coming = told, coming

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}

        async def event(data: str) -> None:
            body = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async with aclosing(self._coming) as coming:
            await send(start)
            try:
                for chunk in self._told.begin():
                    await event(json.dumps(chunk))
                async for part in coming:
                    await event(json.dumps(self._told.add(part)))
                if self._told.done:
                    for chunk in self._told.end():
                        await event(json.dumps(chunk))
                    await event("[DONE]")
            except Refusal as refusal:  # the status is sent already
                await event(json.dumps(refusal.body()))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def leaves(request: Request) -> None:
    """Returns when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def body_of(request: Request) -> Any:
    """The JSON value of a request. Refusal where there is none, or too much of it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise Refusal(415, f"[serve] expected content-type {JSON_TYPE}, got {shown(kind, 60)}.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > BODY_BYTES:
                    raise Refusal(413, f"[serve] expected a body of up to {BODY_BYTES:,} bytes.")
        return parse_json(bytes(body))
    except TimeoutError:
        raise Refusal(408, f"[serve] expected the body within {BODY_SECONDS:g} s.") from None
    except ClientDisconnect:
        raise Refusal(499, "[serve] the client disconnected.") from None
    except ValueError as error:
        raise Refusal(400, f"[serve] the body is not JSON: {shown(error)}.") from None


def application(service: Service, hosts: list[str]) -> Starlette:
    """The routes. hosts: names that the server may be called by; "*" is any."""
    described = {
        "id": service.name, "object": "model", "created": service.started, "owned_by": "anefast",
    }  # fmt: skip

    def posted(chat: bool) -> Callable[[Request], Awaitable[Any]]:
        async def endpoint(request: Request) -> Any:
            return await service.answer(request, chat)

        return endpoint

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [described]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name != service.name:
            what = f"[serve] there is no model {shown(repr(name), 60)} here."
            raise Refusal(404, what, "model", "model_not_found")
        return JSONResponse(described)

    async def health(request: Request) -> Response:
        worker = service.worker
        return JSONResponse({"waiting": worker.waiting, "under_way": worker.under_way})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        headers = {"retry-after": "1"} if error.status == 503 else None
        return JSONResponse(error.body(), error.status, headers)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"[serve] {request.method} {shown(request.url.path)}: {error.detail}."
        return JSONResponse(Refusal(error.status_code, what).body(), error.status_code)

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/completions", posted(chat=False), methods=["POST"]),
            Route("/v1/chat/completions", posted(chat=True), methods=["POST"]),
            Route("/health", health),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={Refusal: refused, HTTPException: unknown},
    )
