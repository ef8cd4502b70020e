"""A chat server on 127.0.0.1 that speaks as much of OpenAI's protocol as the tests need."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from advgame.trainer.settings.schema import ServerConfig


class ChatServer(ThreadingHTTPServer):
    """Answers each user turn with `answer(text)`, a word a token; an integer is the status of a failure."""

    daemon_threads = True
    key: str | None = None
    """What it wants as a key; None: nothing."""

    def __init__(self, answer: Callable[[str], str | int]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.lock = answer, threading.Lock()
        self.requests: list[dict] = []
        self.tries: Counter[str] = Counter()
        self.busy = self.most_busy = 0

    @property
    def config(self) -> ServerConfig:
        return ServerConfig(url=f"http://127.0.0.1:{self.server_port}/v1", model="judge-7b", timeout=20)


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_GET(self):
        if self.server.key not in (None, (self.headers["Authorization"] or "").removeprefix("Bearer ")):
            self._send(401, {"error": {"message": "wrong key"}})
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": "judge-7b", "object": "model"}]})
        else:
            self._send(404, {"error": {"message": "no such page"}})

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
        if isinstance(answer, int):
            self._send(answer, {"error": {"message": "not now"}})
        else:
            words, limit = (answer or "").split(" "), request["max_tokens"]
            message = {"role": "assistant", "content": answer and " ".join(words[:limit])}
            reason = "stop" if len(words) <= limit else "length"
            self._send(200, {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": reason}]})

    def _send(self, status: int, body: dict):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After-Ms", "1")  # or the client waits for half a second
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def chat_server(answer: Callable[[str], str | int]) -> Iterator[ChatServer]:
    with ChatServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
