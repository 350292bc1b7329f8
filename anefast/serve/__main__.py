"""`anefast serve MODEL`: a model behind OpenAI's completions and chat endpoints, on this machine.

    anefast serve runs/my-run --port 8000
    curl localhost:8000/v1/completions -H 'content-type: application/json' -d '{"prompt": "Once"}'

SIGTERM and Ctrl-C end it: requests under way have some seconds to finish.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from anefast.adapting import adapter_for
from anefast.checks import whole
from anefast.cli import command, say
from anefast.config import ConfigError
from anefast.errors import BadInput, visible
from anefast.model import Model
from anefast.runtime import Device
from anefast.sampling import TOKENS
from anefast.serve.worker import Worker

GRACE = 10  # seconds that requests under way have to finish
CONNECTIONS = 1000  # that are open together
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeConfig:
    """Serve a model with OpenAI's completions and chat endpoints."""

    # A run, a checkpoint, a Hugging Face folder, hf:owner/name, a GGUF file, or a llama2.c .bin.
    model: Annotated[str, tyro.conf.Positional]
    adapter: str = ""  # A LoRA adapter of the model: a folder of PEFT or mlx-lm, or a run.
    host: str = "127.0.0.1"  # The address to listen on; there are no passwords.
    port: int = 8000  # The port to listen on; 0 takes a free one.
    name: str = ""  # The model's name for clients; empty: the name of its file or folder.
    batch: int = 8  # Texts to generate side by side.
    queue: int = 64  # Requests that may wait; further ones get 503 and retry-after.
    tokens: int = TOKENS  # Most tokens of an answer, if the request names no number.
    tokenizer: str = ""  # "bytes" or a tokenizer file; a run brings its own.
    padded: bool = False  # The model's table is meant to have more ids than the tokenizer named.
    device: str = "auto"  # Where programs run: auto, ane or host.
    chip: str = ""  # The host emulates: CHIPS, doctor.json.


def serve(config: ServeConfig) -> None:
    """Answers requests until it is told to end."""
    whole("serve", "port", config.port, 0, 65535)
    whole("serve", "batch", config.batch, 1, 256)
    whole("serve", "queue", config.queue, 1, 1 << 16)
    whole("serve", "tokens", config.tokens, 0)
    if not config.host:
        raise ConfigError("[serve] expected host to be an address, got ''. Hint: 127.0.0.1.")
    try:
        import uvicorn

        from anefast.serve.app import Service, application
    except ImportError:
        raise ImportError(
            "[serve] serving needs Starlette and uvicorn, which are not installed. "
            "Hint: pip install 'anefast[serve]'."
        ) from None
    device = Device(config.device, chip=config.chip)
    with bound(config.host, config.port) as listening:
        model = Model.load(config.model, config.tokenizer, config.padded)
        if config.adapter:
            model.adapt(adapter_for(model, config.model, config.adapter))
        name = config.name or Path(config.model).name or config.model
        worker = Worker(model, device, config.batch, config.queue)
        service = Service(model, name, worker, config.batch, config.tokens)
        local = config.host in LOCAL
        app = application(service, [config.host, *LOCAL] if local else ["*"])
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=GRACE, limit_concurrency=CONNECTIONS,
        )  # fmt: skip
        server = uvicorn.Server(settings)
        worker.start(lambda: setattr(server, "should_exit", True))
        host = f"[{config.host}]" if ":" in config.host else config.host
        say(
            f"{visible(name)} on {device.description} ({device.label}): "
            f"http://{host}:{listening.getsockname()[1]}/v1"
        )
        if not local:
            said = f"whoever reaches {config.host} may use it: there are no passwords"
            print(said, file=sys.stderr, flush=True)
        try:
            with ending_heard():
                server.run(sockets=[listening])
        finally:
            worker.stop()
            model.close()
    if worker.failure is not None:
        raise worker.failure


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. BadInput if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BadInput(
            f"[serve] expected to listen on {visible(host)} port {port}: {why}. "
            "Hint: --port 0 takes a free one."
        ) from None


class ending_heard:
    """SIGTERM and Ctrl-C do nothing else while it lasts than what uvicorn makes of them: it raises
    them again behind its own end."""

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, lambda *_: None)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, 2 for a request that makes no sense, 1 where the device fails."""
    command(ServeConfig, serve, argv)


if __name__ == "__main__":
    main()
