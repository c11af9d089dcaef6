"""A proxy in front of the real S3 server that breaks what it is told to break.

Requests go on as they came, `Host` included, so their signatures stay valid; the endpoint to give to clients is the
proxy's. A `Fault` says what happens to which requests, and `FaultyStore.seen` tells what happened to each.
"""

from __future__ import annotations

import fnmatch
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

ERRORS = {
    "slow_down": (503, "SlowDown"),
    "unavailable": (500, "InternalError"),
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "expired_403": (403, "ExpiredToken"),
    "unknown_key": (403, "InvalidAccessKeyId"),
    "skewed": (403, "RequestTimeTooSkewed"),
}
HOP = {"connection", "transfer-encoding", "expect", "keep-alive"}  # headers that concern one connection only


@dataclass(frozen=True)
class Fault:
    """What to do to requests.

    Attributes:
        kind: a key of `ERRORS`, which is answered without asking the store, or a key of `BREAKAGES`.
        method, key: which requests; `key` is a pattern over `/bucket/key`.
        first: only so many of them; `after`: and not the first so many.
        probability: of those, how many.
        seconds: for `slow`, how long the body takes; for `late` and `delayed`, how long a put is held back.
    """

    kind: str
    method: str = "GET"
    key: str = "*"
    first: float = float("inf")
    after: int = 0
    probability: float = 1.0
    seconds: float = 1.0


@dataclass(frozen=True)
class Seen:
    """A request, and the kind of fault that it met, if any."""

    method: str
    key: str
    fault: str | None


@dataclass(frozen=True)
class Answer:
    """What the store said. `headers` tell the length that the client will believe."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    def announcing(self, length: int) -> Answer:
        kept = [(name, value) for name, value in self.headers if name.lower() != "content-length"]
        return replace(self, headers=[*kept, ("Content-Length", str(length))])


class FaultyStore:
    """The proxy, for the length of a `with` block. `faults` may be replaced at any time; the first that fits wins."""

    def __init__(self, endpoint: str, faults: Sequence[Fault] = (), seed: int = 0) -> None:
        self.upstream = urlsplit(endpoint).netloc
        self.faults, self.seen = tuple(faults), list[Seen]()
        self._matched: Counter[Fault] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.store = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyStore:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, fault: str | None = None, method: str = "*", key: str = "*") -> int:
        """How many such requests met that fault (None: any fault)."""
        return sum(
            1
            for seen in list(self.seen)
            if seen.fault and fault in (None, seen.fault) and _fits(seen.method, seen.key, method, key)
        )

    def fault_for(self, method: str, key: str) -> Fault | None:
        """The fault that this request meets."""
        with self._lock:
            found = next((fault for fault in self.faults if self._strikes(fault, method, key)), None)
            self.seen.append(Seen(method, key, found and found.kind))
            return found

    def _strikes(self, fault: Fault, method: str, key: str) -> bool:
        if not _fits(method, key, fault.method, fault.key) or self._random.random() >= fault.probability:
            return False
        self._matched[fault] += 1
        return fault.after < self._matched[fault] <= fault.after + fault.first


def _fits(method: str, key: str, methods: str, keys: str) -> bool:
    return methods in ("*", method) and fnmatch.fnmatchcase(key, keys)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    store: FaultyStore

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Close without socketserver's shutdown before it, which would make a good end of what should be a reset."""
        request.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        key = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.store.fault_for(self.command, key)
        if fault is None:
            self.send(self.ask(body))
        elif fault.kind in ERRORS:
            self.send(_error(*ERRORS[fault.kind]))
        else:
            BREAKAGES[fault.kind](self, body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815  (names that http.server looks up)

    def ask(self, body: bytes) -> Answer:
        """The store's answer to this request."""
        connection = http.client.HTTPConnection(self.server.store.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
            whole = Answer(answer.status, answer.reason, headers, answer.read())
            return whole if self.command == "HEAD" else whole.announcing(len(whole.body))
        finally:
            connection.close()

    def send(self, answer: Answer, pieces: int = 1, pause: float = 0.0) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        size = -(-len(answer.body) // pieces) or 1
        for start in range(0, len(answer.body), size):
            time.sleep(pause)
            self.wfile.write(answer.body[start : start + size])

    def hang_up(self, reset: bool = True) -> None:
        """End the connection with a reset, or without."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, *arguments: object) -> None:
        pass


def _error(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>by order</Message></Error>".encode()
    headers = [("Content-Type", "application/xml")]
    return Answer(status, http.client.responses[status], headers, body).announcing(len(body))


def _reset(handler: _Handler, body: bytes, fault: Fault) -> None:
    handler.hang_up()


def _broken_off(handler: _Handler, body: bytes, reset: bool) -> None:
    """The right length is announced; half of it comes."""
    answer = handler.ask(body)
    handler.send(replace(answer, body=answer.body[: len(answer.body) // 2]))
    handler.hang_up(reset)


def _slow(handler: _Handler, body: bytes, fault: Fault) -> None:
    handler.send(handler.ask(body), pieces=20, pause=fault.seconds / 20)


def _short(handler: _Handler, body: bytes, fault: Fault) -> None:
    """Half of the body, announced as the whole."""
    half = (answer := handler.ask(body)).body[: len(answer.body) // 2]
    handler.send(replace(answer, body=half).announcing(len(half)))


def _long(handler: _Handler, body: bytes, fault: Fault) -> None:
    """The whole body, announced as longer than it is."""
    answer = handler.ask(body)
    handler.send(answer.announcing(len(answer.body) + 7))
    handler.hang_up(reset=False)


def _flipped(handler: _Handler, body: bytes, fault: Fault) -> None:
    """One byte in the middle of the body differs."""
    changed = bytearray((answer := handler.ask(body)).body)
    if changed:
        changed[len(changed) // 2] ^= 0x55
    handler.send(replace(answer, body=bytes(changed)))


def _lost_reset(handler: _Handler, body: bytes, fault: Fault) -> None:
    """The store does what it is asked; the client doesn't hear of it."""
    handler.ask(body)
    handler.hang_up()


def _lost_error(handler: _Handler, body: bytes, fault: Fault) -> None:
    """The store does what it is asked; the client is told that it failed."""
    handler.ask(body)
    handler.send(_error(*ERRORS["unavailable"]))


def _delayed(handler: _Handler, body: bytes, fault: Fault) -> None:
    time.sleep(fault.seconds)
    handler.send(handler.ask(body))


def _late(handler: _Handler, body: bytes, fault: Fault) -> None:
    """The client sees a reset at once; the store gets the request later all the same."""
    timer = threading.Timer(fault.seconds, handler.ask, (body,))
    timer.daemon = True
    timer.start()
    handler.hang_up()


BREAKAGES: dict[str, Callable[[_Handler, bytes, Fault], None]] = {
    "reset": _reset,
    "reset_body": lambda handler, body, fault: _broken_off(handler, body, reset=True),
    "truncated": lambda handler, body, fault: _broken_off(handler, body, reset=False),
    "slow": _slow,
    "short": _short,
    "long": _long,
    "flipped": _flipped,
    "lost_reset": _lost_reset,
    "lost_error": _lost_error,
    "delayed": _delayed,
    "late": _late,
}
