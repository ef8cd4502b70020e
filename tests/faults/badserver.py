"""A server on 127.0.0.1 that misbehaves: it lists its model, and answers requests as one of MISBEHAVIOURS says."""

import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-hunter2hunter2"
"""What the client has as a key, and must not show to anyone."""


class BadServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Callable[["Handler"], None], listing: bool = False, port: int = 0):
        """listing: it misbehaves when it is asked for its models, too."""
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.listing, self.asked, self.stopping = answer, listing, 0, False

    @property
    def settings(self) -> list[str]:
        url = f"http://127.0.0.1:{self.server_port}/v1"
        return [
            "judge.kind=server",
            "judge.server.model=judge",
            f"judge.server.url={url}",
            "judge.server.api_key_env=KEY",
        ]


class Handler(BaseHTTPRequestHandler):
    server: BadServer
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.server.listing:
            self.misbehave()
        else:
            self.send(json.dumps({"object": "list", "data": [{"id": "judge", "object": "model"}]}))

    def do_POST(self):
        self.text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        self.server.asked += 1
        self.misbehave()

    def misbehave(self):
        self.close_connection = True
        with suppress(OSError):  # the client may have had enough
            self.server.answer(self)

    def send(self, content: str | bytes, status: int = 200, **headers: str):
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
        ).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def drip(self, content: bytes):
        for byte in content:
            self.wfile.write(bytes([byte]))
            self.wait(0.3)

    def endless(self, *parts: bytes):
        for part in parts:
            self.wfile.write(part)
        while not self.server.stopping:
            self.wfile.write(parts[-1])

    def wait(self, seconds: float = 3600):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.server.stopping:
            time.sleep(0.05)

    def reset(self):
        """A connection that lingers for no time is cut rather than closed."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, *_):
        pass


def verdict(text: str) -> str:
    """A good judge: the length of a candidate decides."""
    if "<response_A>" in text:
        a, b = (len(text.split(f"<response_{name}>")[1].split(f"</response_{name}>")[0]) for name in "AB")
        return f"<score_A>{a % 11}</score_A> <score_B>{b % 11}</score_B>"
    return "<answer>True</answer>"


def completion(content: object, reason: str = "stop") -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}
    return json.dumps({"id": "1", "object": "chat.completion", "model": "judge", "created": 1, "choices": [choice]})


def behave(handler: Handler) -> None:
    handler.send(completion(verdict(handler.text)))


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"

MISBEHAVIOURS: dict[str, Callable[[Handler], None]] = {
    "never answers": lambda h: h.wait(),
    "a byte every 0.3 s": lambda h: h.drip(OK + b"Content-Length: 100000\r\n\r\n" + b" " * 100_000),
    "a header's byte every 0.3 s": lambda h: h.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000),
    "closes at once": lambda h: None,
    "resets the connection": lambda h: h.reset(),
    "closes within the headers": lambda h: h.wfile.write(OK),
    "closes within the answer": lambda h: h.wfile.write(OK + b'Content-Length: 500\r\n\r\n{"id": "1", "cho'),
    "closes within a chunk": lambda h: h.wfile.write(OK + b'Transfer-Encoding: chunked\r\n\r\nff\r\n{"id"'),
    "an answer without end": lambda h: h.endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK),
    "an answer of 10 GB": lambda h: h.endless(OK + b"Content-Length: 10000000000\r\n\r\n", b" " * 65536),
    "headers without end": lambda h: h.endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
    "a header without end": lambda h: h.endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
    "10 GB in 10 MB of gzip": lambda h: h.send(bomb(), Content_Encoding="gzip"),
    "half of a gzip": lambda h: h.send(gzip.compress(completion("x").encode())[:40], Content_Encoding="gzip"),
    "a redirect to another host": lambda h: h.send("", 307, Location="http://localhost:9/v1/chat/completions"),
    "a redirect to itself": lambda h: h.send("", 308, Location=h.path),
    "another protocol": lambda h: h.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "another version of HTTP": lambda h: h.wfile.write(b"HTTP/9.9 200 Fine\r\n\r\n"),
    "status 999": lambda h: h.wfile.write(b"HTTP/1.1 999 Maybe\r\nContent-Length: 0\r\n\r\n"),
    "status 204": lambda h: h.wfile.write(b"HTTP/1.1 204 None\r\n\r\n"),
    "status 400": lambda h: h.send(json.dumps({"error": {"message": "max_tokens is too large"}}), 400),
    "status 401 with the key": lambda h: h.send(json.dumps({"error": {"message": f"wrong key {KEY}"}}), 401),
    "status 404": lambda h: h.send(json.dumps({"error": {"message": "no such page"}}), 404),
    "status 413": lambda h: h.send("<h1>too large</h1>", 413, Content_Type="text/html"),
    "status 429, come back in an hour": lambda h: h.send("{}", 429, Retry_After="3600"),
    "status 500 with the key": lambda h: h.send(json.dumps({"error": {"message": f"no model for {KEY}"}}), 500),
    "status 503": lambda h: h.send("", 503),
    "a web page": lambda h: h.send("<html>Welcome</html>", Content_Type="text/html"),
    "nothing": lambda h: h.send(""),
    "half a JSON object": lambda h: h.send('{"choices": [{"mess'),
    "a JSON list": lambda h: h.send("[]"),
    "a JSON string": lambda h: h.send('"fine"'),
    "JSON nested 100,000 deep": lambda h: h.send("[" * 100_000),
    "a number of 10,000 digits": lambda h: h.send('{"created": ' + "9" * 10_000 + "}"),
    "not UTF-8": lambda h: h.send(b'{"choices": "\xff\xfe"}'),
    "no choices": lambda h: h.send('{"id": "1", "choices": []}'),
    "choices that are null": lambda h: h.send('{"id": "1", "choices": null}'),
    "a choice without a message": lambda h: h.send('{"choices": [{"finish_reason": "stop"}]}'),
    "an answer that is null": lambda h: h.send(completion(None, "content_filter")),
    "an answer that is a number": lambda h: h.send(completion(10)),
    "an answer that is a list": lambda h: h.send(completion([{"type": "text", "text": "True"}])),
    "an answer that is empty": lambda h: h.send(completion("")),
    "an answer that is cut off": lambda h: h.send(completion("<answer>Tr", "length")),
    "an answer that is no verdict": lambda h: h.send(completion("As an AI language model I like both.")),
    "a verdict of 100,000 spaces": lambda h: h.send(completion("<score_A>" + " " * 100_000 + "<score_B>")),
    "an error in an answer": lambda h: h.send('{"error": {"message": "out of memory", "code": 500}}'),
}  # fmt: skip


def bomb() -> bytes:
    part = gzip.compress(bytes(10**8))
    return part * 100


@contextmanager
def bad_server(answer: Callable[[Handler], None], listing: bool = False, port: int = 0) -> Iterator[BadServer]:
    with BadServer(answer, listing, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping = True
            server.shutdown()
            thread.join()
