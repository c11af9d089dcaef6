"""What is told of a run's end, to commands and to URLs, and what is never said of these."""

from __future__ import annotations

import base64
import errno
import json
import logging
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.record import hook
from adafv.pipeline.record.hook import open_hook, public_hook
from adafv.pipeline.store import retry

RECORD = {"run_id": "r", "status": "done", "error": "'; $(touch oops) é"}
SECRET = "planted"


@pytest.fixture(autouse=True)
def quick(monkeypatch, caplog):
    monkeypatch.setattr(retry, "pause", lambda *_: 0.0)
    caplog.set_level(logging.DEBUG)


class Server:
    """Answers with the statuses that it is given, the last one again and again, and keeps what it is sent."""

    def __init__(self) -> None:
        self.statuses, self.got = [200], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.got.append((self.path, dict(self.headers), json.loads(body)))
                status = server.statuses[0] if len(server.statuses) == 1 else server.statuses.pop(0)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._http = HTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def python(code: str, *arguments: object) -> str:
    return shlex.join([sys.executable, "-c", code, *map(str, arguments)])


def test_a_command_has_the_record_on_its_input_and_in_a_file(tmp_path, caplog):
    """And nothing in the record is a shell's."""
    code = "import os, sys; both = sys.stdin, open(os.environ['ADAFV_RUN_FILE'])\n"
    code += "open(sys.argv[1], 'w').write('|'.join(one.read() for one in both))"
    open_hook(python(code, tmp_path / "told; x"))(RECORD)
    first, second = (tmp_path / "told; x").read_text().split("|")
    assert json.loads(first) == json.loads(second) == RECORD
    assert [path.name for path in tmp_path.iterdir()] == ["told; x"]
    assert "was notified" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("code", "timeout", "said"),
    [
        ("raise SystemExit(7)", 300.0, "exit status 7"),
        ("import time; time.sleep(600)", 0.5, "it ran for more than 0.5 s"),
    ],
)
def test_a_command_that_fails_is_a_warning(monkeypatch, caplog, code, timeout, said):
    monkeypatch.setattr(hook, "COMMAND_TIMEOUT", timeout)
    open_hook(python(code, SECRET))(RECORD)
    assert said in caplog.messages[-1] and caplog.records[-1].levelno == logging.WARNING
    assert SECRET not in caplog.text


def test_a_disk_that_is_full_is_a_warning(monkeypatch, caplog):
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hook.tempfile, "NamedTemporaryFile", full)
    open_hook(python("pass"))(RECORD)
    assert "failed: it can't be started: No space left on device" in caplog.messages[-1]


def test_a_url_is_sent_the_record(server, caplog):
    open_hook(f"http://{SECRET}:pw%40{SECRET}@{server.host}/services/{SECRET}?token={SECRET}#x")(RECORD)
    [(path, headers, body)] = server.got
    assert body == RECORD and path == f"/services/{SECRET}?token={SECRET}"
    assert headers["Content-Type"] == "application/json"
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode() == f"{SECRET}:pw@{SECRET}"
    assert SECRET not in caplog.text and "was notified" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("statuses", "asked", "said"),
    [
        ([503, 429, 200], 3, "was notified"),
        ([500], 3, "it answered 500, 3 times"),
        ([403], 1, "it answered 403"),
        ([302], 1, "it answered 302"),
    ],
)
def test_what_may_pass_is_tried_again(server, caplog, statuses, asked, said):
    server.statuses = statuses
    open_hook(f"http://{server.host}/{SECRET}")(RECORD)
    assert len(server.got) == asked and said in caplog.messages[-1]
    assert SECRET not in caplog.text


def test_nobody_answers(server, caplog):
    url = f"http://{server.host}/{SECRET}"
    server.close()
    open_hook(url)(RECORD)
    assert "ConnectionRefusedError, 3 times" in caplog.messages[-1] and SECRET not in caplog.text


@pytest.mark.parametrize(
    "given",
    [
        "/no/such/program planted",
        "planted-program-that-is-nowhere",
        "'planted",
        "http://",
        "https://user:planted/x@host/",
        "https://host:planted/x",
        "https://host/plänted",
        "https://host/x planted",
        "https://host..example/planted",
    ],
)
def test_what_is_neither_is_refused(given):
    with pytest.raises(UsageError, match="--on-finish") as refused:
        open_hook(given)
    # A program's own name is shown, or the user couldn't tell what is missing.
    assert SECRET not in str(refused.value) or given.partition(" ")[0] in (
        "planted-program-that-is-nowhere",
        "'planted",
    )


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://hooks.example.com/services/T0/planted", "https://hooks.example.com/…"),
        ("HTTPS://user:planted@host:8443?planted", "HTTPS://host:8443/…"),
        ("https://user:123/planted@host", "https://…"),
        ("notify.sh --token planted", "notify.sh …"),
        ("notify.sh", "notify.sh"),
    ],
)
def test_what_is_shown_of_it(given, shown):
    assert public_hook(given) == shown
