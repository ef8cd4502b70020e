"""A chat server on 127.0.0.1 that speaks as much of OpenAI's protocol as the tests need, or misbehaves."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from advgame.trainer.settings.schema import ServerConfig

Misbehaviour = Callable[["_Handler"], None]
Answer = str | int | None | Misbehaviour


class ChatServer(ThreadingHTTPServer):
    """Answers each user turn with `answer(text)`, a word a token; an integer is the status of a failure."""

    daemon_threads = True
    request_queue_size = 128
    key: str | None = None
    """What it wants as a key; None: nothing."""
    models: Misbehaviour | None = None
    """What it does instead of listing its models."""
    refuses: tuple[str, ...] = ()
    """Fields of a request that it does not know."""
    away = False

    def __init__(self, answer: Callable[[str], Answer]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.lock = answer, threading.Lock()
        self.requests: list[dict] = []
        self.tries: Counter[str] = Counter()
        self.busy = self.most_busy = 0
        self._serve()

    @property
    def config(self) -> ServerConfig:
        return ServerConfig(url=f"http://127.0.0.1:{self.server_port}/v1", model="judge-7b", timeout=20)

    def leave(self) -> None:
        """As if it were killed: nobody listens, and who waits for an answer gets none."""
        self.away = True
        self.shutdown()
        self.server_close()

    def come_back(self) -> None:
        """At the same address."""
        self.socket = type(self.socket)(self.address_family, self.socket_type)
        self.server_bind()
        self.server_activate()
        self.away = False
        self._serve()

    def leave_for(self, seconds: float) -> None:
        """Returns at once."""

        def pause() -> None:
            self.leave()
            time.sleep(seconds)
            self.come_back()

        threading.Thread(target=pause).start()
        while not self.away:
            time.sleep(0.001)

    def _serve(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_GET(self):
        if self.server.key not in (None, self.given_key):
            self.send(401, {"error": {"message": "wrong key"}})
        elif self.path != "/v1/models":
            self.send(404, {"error": {"message": "no such page"}})
        elif self.server.models:
            self.misbehave(self.server.models)
        else:
            self.send(200, {"object": "list", "data": [{"id": "judge-7b", "object": "model"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = request["messages"][0]["content"]
        with self.server.lock:
            self.server.requests.append(request)
            self.server.tries[text] += 1
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        answer = self.server.answer(text)
        with self.server.lock:
            self.server.busy -= 1
        if self.server.away:
            return
        unknown = [field for field in self.server.refuses if field in request]
        if unknown:
            self.send(400, {"error": {"message": f"Unrecognized request argument supplied: {unknown[0]}"}})
        elif callable(answer):
            self.misbehave(answer)
        elif isinstance(answer, int):
            self.send(answer, {"error": {"message": "not now"}})
        else:
            words, limit = (answer or "").split(" "), request["max_tokens"]
            message = {"role": "assistant", "content": answer and " ".join(words[:limit])}
            reason = "stop" if len(words) <= limit else "length"
            self.send(200, {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": reason}]})

    def misbehave(self, how: Misbehaviour):
        with suppress(ConnectionError):  # whoever asked may leave
            how(self)

    @property
    def given_key(self) -> str:
        return (self.headers["Authorization"] or "").removeprefix("Bearer ")

    def send(self, status: int, body: dict | str, **headers: str):
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def drips(handler: _Handler) -> None:
    """A byte now and then, as long as somebody listens: of the headers first, then of the answer."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    for part in [*[b"x"] * 3, b"\r\n\r\n", *[b" "] * 10_000]:
        handler.wfile.write(part)
        time.sleep(0.1)


def never_ends(handler: _Handler) -> None:
    """An answer that fills every memory."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 2**20)


def redirects(to: str) -> Misbehaviour:
    return lambda handler: handler.send(307, "", Location=to)


def echoes(status: int) -> Misbehaviour:
    """The key, in an error or in an answer."""

    def echo(handler: _Handler) -> None:
        said = f"your key is {handler.given_key}, is it?"
        choice = {"message": {"content": said}, "finish_reason": "stop"}
        handler.send(status, {"choices": [choice]} if status == 200 else {"error": {"message": said}})

    return echo


def is_busy(handler: _Handler) -> None:
    handler.send(429, {"error": {"message": "too many"}}, Retry_After="1")


@contextmanager
def chat_server(answer: Callable[[str], Answer]) -> Iterator[ChatServer]:
    with ChatServer(answer) as server:
        yield server
        server.shutdown()


def verdict(text: str) -> str:
    """The length of a candidate decides."""
    if "<response_A>" in text:
        a, b = (len(text.split(f"<response_{name}>")[1].split(f"</response_{name}>")[0]) for name in "AB")
        return f"<score_A>{a % 11}</score_A> <score_B>{b % 11}</score_B>"
    return "<answer>True</answer>"


def judged_by(server: ChatServer) -> list[str]:
    """Settings of a run."""
    return ["judge.kind=server", "judge.server.model=judge-7b", f"judge.server.url={server.config.url}"]
