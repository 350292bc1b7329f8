"""The server under OpenAI's own client: the command line's texts, bounds, and nothing left over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anefast.config import ModelConfig
from anefast.decode import Said
from anefast.formats import save_folder
from anefast.generate import GenerateConfig, generate
from anefast.model import Model
from anefast.runtime import Device
from anefast.sampling import Choice
from anefast.serve.__main__ import ServeConfig, serve
from anefast.serve.worker import Full, Job, Worker
from anefast.tokenizer import open_tokenizer

from .test_instruct import chatty_in

openai = pytest.importorskip("openai", reason="install anefast[test]")
httpx = pytest.importorskip("httpx", reason="install anefast[test]")
pytest.importorskip("uvicorn", reason="install anefast[serve]")

SHAPE = ModelConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_seq_len=128)


class Server:
    """A server of its own, and its model's folder."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "anefast.serve", str(folder), "--port", "0", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"ANEFAST_NUM_THREADS": "2"},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://127.0.0.1:" in line, (line, self.process.communicate())
        self.url = line.split()[-1]
        self.root = self.url.removesuffix("/v1")

    def client(self) -> Any:
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=120)

    def held(self) -> dict[str, int]:
        """What the process has: threads, open files, requests."""
        proc = Path("/proc", str(self.process.pid))
        if not proc.is_dir():
            pytest.skip("this system has no /proc to count a process's threads and files")
        status = (proc / "status").read_text().split("Threads:")[1].split()[0]
        files = len(list((proc / "fd").iterdir()))
        return {"threads": int(status), "files": files} | httpx.get(f"{self.root}/health").json()

    def end(self, by: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code and what it said on stderr."""
        self.process.send_signal(by)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = chatty_in(tmp_path_factory.mktemp("tokenizer") / "of a chat")
    tokenizer, folder = open_tokenizer(source), tmp_path_factory.mktemp("served") / "little"
    shape = SHAPE.replace(vocab_size=tokenizer.vocab_size)
    params = Model.from_config(shape, tokenizer, seed=3).params
    params["tok_embeddings"] *= 4
    save_folder(folder, shape, params, "F32", tokenizer)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    found = Server(folder)
    yield found
    assert found.end() == (0, "")


def said_by_command(capsys: pytest.CaptureFixture[str], folder: Path, **how: Any) -> str:
    capsys.readouterr()
    generate(GenerateConfig(str(folder), device="host", **how))
    out = capsys.readouterr().out
    return out.removesuffix("\n")


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.0},
        {"seed": 7, "temperature": 0.9, "top_p": 0.8},
        {"seed": 1, "temperature": 1.3, "stop": ("e",)},
    ],
    ids=str,
)
def test_texts_are_those_of_the_command_line(
    server: Server, capsys: pytest.CaptureFixture[str], how: dict[str, Any]
) -> None:
    """Whole and streamed, of a text and of a chat."""
    asked = {k: list(v) if k == "stop" else v for k, v in how.items()} | {
        "seed": how.get("seed", 0)
    }
    prompt, name = "Hi there", server.folder.name
    want = said_by_command(capsys, server.folder, prompt=prompt, tokens=20, **how)
    chat = said_by_command(capsys, server.folder, prompt=prompt, tokens=20, chat=True, **how)
    with server.client() as client:
        whole = client.completions.create(model=name, prompt=prompt, max_tokens=20, **asked)
        assert prompt + whole.choices[0].text == want
        chunks = client.completions.create(
            model=name, prompt=prompt, max_tokens=20, stream=True, **asked
        )
        assert prompt + "".join(c.choices[0].text for c in chunks) == want
        turns = [{"role": "user", "content": prompt}]
        answer = client.chat.completions.create(
            model=name, messages=turns, max_completion_tokens=20, **asked
        )
        assert answer.choices[0].message.content == chat
        parts = list(
            client.chat.completions.create(
                model=name, messages=turns, max_tokens=20, stream=True,
                stream_options={"include_usage": True}, **asked,
            )
        )  # fmt: skip
    assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == chat
    assert parts[-1].usage == answer.usage and parts[-1].choices == []
    assert [p.choices[0].finish_reason for p in parts[:-1]][-1] == answer.choices[0].finish_reason
    if whole.usage.completion_tokens == 20:
        assert whole.choices[0].finish_reason in ("length", "stop")
    else:
        assert whole.choices[0].finish_reason == "stop"


def test_several_texts_and_prompts_are_as_with_num(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [
        said_by_command(capsys, server.folder, prompt=prompt, tokens=9, seed=seed)
        for prompt in ("Hi", "So")
        for seed in (5, 6, 7)
    ]
    with server.client() as client:
        told = client.completions.create(
            model="little", prompt=["Hi", "So"], n=3, seed=5, max_tokens=9
        )
    texts = [("Hi", "So")[c.index // 3] + c.text for c in told.choices]
    assert texts == alone and [c.index for c in told.choices] == list(range(6))
    assert told.usage.prompt_tokens == 2 * len(Model.load(server.folder).prompt_ids("Hi"))


def test_log_probabilities_are_those_of_the_command_line(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"prompt": "Hi", "tokens": 6, "seed": 2, "log_probabilities": True}
    generate(GenerateConfig(str(server.folder), device="host", **config))  # type: ignore[arg-type]
    words = [line.split() for line in capsys.readouterr().err.splitlines()]
    want = next([float(w) for w in ws] for ws in words if ws and all(w[0] == "-" for w in ws))
    with server.client() as client:
        text = client.completions.create(
            model="little", prompt="Hi", max_tokens=6, seed=2, logprobs=2
        ).choices[0]
        turns = [{"role": "user", "content": "Hi"}]
        chat = client.chat.completions.create(
            model="little", messages=turns, max_tokens=4, seed=2, temperature=0, logprobs=True,
            top_logprobs=3,
        ).choices[0]  # fmt: skip
    assert text.logprobs.token_logprobs == pytest.approx(want, abs=5e-5)
    assert all(len(top) <= 2 for top in text.logprobs.top_logprobs)
    assert "".join(text.logprobs.tokens) == text.text
    ends = [
        o + len(t) for o, t in zip(text.logprobs.text_offset, text.logprobs.tokens, strict=True)
    ]
    assert text.logprobs.text_offset == [0, *ends[:-1]]
    for token in chat.logprobs.content:  # the likeliest is what temperature 0 takes
        assert token.top_logprobs[0].logprob == token.logprob
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token
        assert [t.logprob for t in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )


def test_models_are_listed(server: Server) -> None:
    with server.client() as client:
        assert [m.id for m in client.models.list()] == ["little"]
        assert client.models.retrieve("little").owned_by == "anefast"
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
            client.models.retrieve("gpt-9")


TURN = {"role": "user", "content": "Hi"}
REFUSED = [  # endpoint, body, status, argument, part of the message
    ("completions", {"prompt": "a", "model": "gpt-9"}, 404, "model", "there is no model 'gpt-9'"),
    ("completions", {"prompt": "a", "max_tokens": -1}, 400, "max_tokens", "got -1"),
    ("completions", {"prompt": "a", "temperature": "hot"}, 400, "temperature", "0 to 100"),
    ("completions", {"prompt": "a", "top_p": 0}, 400, None, "top_p"),
    ("completions", {"prompt": "a", "n": 9}, 400, "n", "1 to 8"),
    ("completions", {"prompt": ["a"] * 5, "n": 2}, 400, "prompt", "at most 8 texts"),
    ("completions", {"prompt": [0, -5]}, 400, "prompt", "ids 0 to"),
    ("completions", {"prompt": 5}, 400, "prompt", "ids 0 to"),
    ("completions", {"prompt": []}, 400, "prompt", "ids 0 to"),
    ("completions", {"prompt": "a", "stop": [""]}, 400, "stop", "none of them empty"),
    ("completions", {"prompt": "a", "logprobs": 6}, 400, "logprobs", "0 to 5"),
    ("completions", {"prompt": "a" * 500}, 400, "prompt", "context is 128 tokens"),
    ("completions", {"prompt": "a", "frequency_penalty": 1}, 400, "frequency_penalty", "not supp"),
    ("completions", {"prompt": "a", "lenght": 1}, 400, "lenght", "not an argument"),
    ("completions", {"prompt": "a", "stream_options": {}}, 400, "stream_options", "stream to be"),
    ("completions", ["a"], 400, None, "a JSON object"),
    ("chat/completions", {}, 400, "messages", "a list of messages"),
    ("chat/completions", {"messages": []}, 400, "messages", "a list of messages"),
    ("chat/completions", {"messages": [{"role": "user"}]}, 400, "messages", "contents of text"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": "a<|im_end|>"}]},
        400,
        "messages",
        "without marks",
    ),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages",
        "contents of text",
    ),
    ("chat/completions", {"messages": [TURN], "tools": [{}]}, 400, "tools", "not supported"),
    ("chat/completions", {"messages": [TURN], "top_logprobs": 2}, 400, "top_logprobs", "with it"),
    ("chat/completions", {"messages": [TURN | {"name": "x"}]}, 400, "messages", "nothing else"),
]


@pytest.mark.parametrize("where, body, status, param, told", REFUSED)
def test_what_cannot_be_answered_is_refused_in_openai_s_form(
    server: Server, where: str, body: Any, status: int, param: str | None, told: str
) -> None:
    answer = httpx.post(f"{server.url}/{where}", json=body)
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert error["param"] == param and told in error["message"], error
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]


def test_what_is_no_request_is_refused(server: Server) -> None:
    url, kind = f"{server.url}/completions", {"content-type": "application/json"}
    for body, status in [("{", 400), ('{"prompt": NaN}', 400), ("[" * 9999, 400), ("\xff", 400)]:
        assert httpx.post(url, content=body.encode("latin-1"), headers=kind).status_code == status
    large = json.dumps({"prompt": "a" * (1 << 20)})
    assert httpx.post(url, content=large, headers=kind).status_code == 413
    plain = httpx.post(url, content="{}", headers={"content-type": "text/plain"})
    assert plain.status_code == 415 and "content-type" in plain.json()["error"]["message"]
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{server.root}/nowhere").json()["error"]["message"].startswith("[serve] GET")
    named = httpx.get(f"{server.root}/health", headers={"host": "evil.example"})
    assert named.status_code == 400  # a page elsewhere that resolves to this machine


def test_many_at_once_some_cut_off(server: Server) -> None:
    """50 requests, every fifth of which leaves: no text is another's or lost, nothing is left."""
    model, device = Model.load(server.folder), Device("host")
    prompts = [f"{'Hi So Yes Go We'.split()[i % 5]} {i}" for i in range(50)]
    want = [
        model.generate(prompt, tokens=24, seed=i, device=device).removeprefix(prompt)
        for i, prompt in enumerate(prompts)
    ]
    model.close()

    async def ask(client: Any, i: int) -> str | None:
        how = {"model": "little", "prompt": prompts[i], "max_tokens": 24, "seed": i}
        if i % 5 == 4:
            try:
                await client.with_options(timeout=0.001 * i).completions.create(**how)
            except openai.APITimeoutError:
                return None
        if i % 5 == 2:
            async with await client.completions.create(stream=True, **how) as chunks:
                return "".join([chunk.choices[0].text async for chunk in chunks])
        return (await client.completions.create(**how)).choices[0].text

    async def leave(client: Any, i: int) -> None:
        how = {"model": "little", "prompt": prompts[i], "max_tokens": 100, "seed": i}
        async with await client.completions.create(stream=True, **how) as chunks:
            async for _ in chunks:
                return  # in the middle of a text

    async def all_of_them() -> list[str | None]:
        async with openai.AsyncOpenAI(
            base_url=server.url, api_key="none", max_retries=0, timeout=120
        ) as client:
            jobs = [leave(client, i) if i % 10 == 4 else ask(client, i) for i in range(50)]
            return list(await asyncio.gather(*jobs))

    def settled() -> dict[str, int]:
        for _ in range(200):
            held = server.held()
            if held["waiting"] == held["under_way"] == 0:
                return held
            time.sleep(0.05)
        raise AssertionError(held)

    held = []
    for _ in range(3):
        found = asyncio.run(all_of_them())
        for i, text in enumerate(found):
            assert text == want[i] or (i % 5 == 4 and text is None), i
        assert sum(text is not None for text in found) >= 40
        held.append(settled())
    assert held[2]["threads"] <= held[0]["threads"]
    assert held[2]["files"] <= held[0]["files"] + 60  # connections that are kept for a while


def test_a_long_line_is_refused_and_the_end_is_clean(folder: Path) -> None:
    """One text at a time and one in line; SIGTERM lets what is under way finish."""
    server = Server(folder, "--batch", "1", "--queue", "1")
    body = {"prompt": "Hi", "max_tokens": 110, "seed": 1, "temperature": 1}
    answers: list[Any] = []
    with httpx.Client(timeout=60) as client:

        def ask() -> None:
            answers.append(client.post(f"{server.url}/completions", json=body))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = [a.status_code for a in answers]
        assert set(codes) <= {200, 503} and 200 in codes
        for refused in (a for a in answers if a.status_code == 503):
            assert "the queue is full" in refused.json()["error"]["message"]
            assert refused.headers["retry-after"] == "1"
        assert len({a.json()["choices"][0]["text"] for a in answers if a.status_code == 200}) == 1
        late = threading.Thread(target=ask)
        late.start()
        while httpx.get(f"{server.root}/health").json()["under_way"] == 0 and late.is_alive():
            time.sleep(0.002)
        assert server.end() == (0, "")
        late.join()
    assert answers[-1].status_code == 200


@pytest.fixture
def worker(folder: Path) -> Iterator[Worker]:
    model = Model.load(folder)
    found = Worker(model, Device("host"), 2, 1)
    yield found
    found.stop()
    model.close()


def job_of(worker: Worker, heard: list[Any], tokens: int = 5) -> Job:
    model = worker._model
    text = model.text("Hi", Choice(seed=1), tokens, device=worker.device)
    return Job([text], [Said(model.tokenizer)], heard.append)


def wait_for(what: Any) -> None:
    for _ in range(1000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def test_an_evaluation_that_fails_ends_its_requests_and_no_other(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.start(lambda: None)
    inference, heard, well = worker._model.kept(worker.device), [], []
    with monkeypatch.context() as patch:
        patch.setattr(inference, "logits_of", lambda _: 1 / 0)
        worker.submit(job_of(worker, heard))
        wait_for(lambda: heard and worker.under_way == 0)
    assert [type(part) for part in heard] == [ZeroDivisionError]
    worker.submit(job_of(worker, well))
    wait_for(lambda: well and well[-1].finish)
    said = "".join(part.text for part in well)
    assert "Hi" + said == worker._model.generate("Hi", 5, seed=1, device=worker.device)


def test_jobs_that_are_cancelled_or_left_are_given_up(worker: Worker) -> None:
    left: list[Any] = []
    first, second, third = (job_of(worker, left) for _ in range(3))
    worker.submit(first)  # it waits: the thread has not begun
    with pytest.raises(Full):
        worker.submit(second)
    worker.cancel(first)
    worker.cancel(first)
    assert worker.waiting == 0
    worker.submit(third)
    worker._ends = True
    ended: list[bool] = []
    worker.start(lambda: ended.append(True))
    worker.stop()
    assert [type(part) for part in left] == [Full] and ended == [True]


def test_without_the_extra_the_command_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"pip install 'anefast\[serve\]'"):
        serve(ServeConfig(str(folder), device="host"))


def test_a_port_that_is_taken_is_said(server: Server) -> None:
    port = int(server.root.rpartition(":")[2])
    with pytest.raises(ValueError, match=f"listen on 127.0.0.1 port {port}: .*in use"):
        serve(ServeConfig(str(server.folder), port=port, device="host"))
