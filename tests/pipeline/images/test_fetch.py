"""Images from a disk, from a real S3 server, and from a real HTTP server; and what must not be opened."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import pyarrow.fs
import pytest

from adafv.pipeline.images import fetch as module
from adafv.pipeline.images import http
from adafv.pipeline.images.fetch import ATTEMPTS, Fetcher
from adafv.pipeline.images.http import is_public
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.rows import Row, RowImage
from adafv.pipeline.store.retry import retry_after
from adafv.pipeline.store.s3 import md5, promised_md5
from adafv.pipeline.store.storage import Storage
from tests.faulty_store import Fault, FaultyStore

DATA = b"not really an image" * 10


def fetcher(storage: Storage | None = None, **rules) -> Fetcher:
    return Fetcher(storage or Storage(), max_bytes=rules.pop("max_bytes", 10_000), pause=0.001, **rules)


def error_of(result: bytes | Reject) -> str:
    assert isinstance(result, Reject), "was fetched"
    return result.error


# --- local ---


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(DATA)
    (folder / "sub" / "ünï.jpg").write_bytes(DATA)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "root-beside").mkdir()
    (tmp_path / "root-beside" / "b.jpg").write_bytes(b"secret")
    return folder


@pytest.mark.parametrize(
    "path", ["a.jpg", "./a.jpg", "sub/../a.jpg", "sub/ünï.jpg", "{root}/a.jpg", "file://{root}/a.jpg"]
)
def test_local(root, path):
    assert fetcher().fetch(path.format(root=root), str(root)) == DATA
    assert fetcher().fetch(path.format(root=root), f"file://{root}") == DATA


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("../secret.jpg", "image_refused"),
        ("sub/../../secret.jpg", "image_refused"),
        ("/etc/passwd", "image_refused"),
        ("file:///etc/passwd", "image_refused"),
        ("file://{root}/%2e%2e/secret.jpg", "image_refused"),
        ("file://[/secret.jpg", "image_refused"),
        ("file://a\u2100b/secret.jpg", "image_refused"),
        ("../root-beside/b.jpg", "image_refused"),
        ("a\0.jpg", "image_refused"),
        ("sub", "image_refused"),
        ("none.jpg", "image_not_found"),
        ("a.jpg/x", "image_not_found"),
        ("x" * 256, "image_not_found"),
        ("x/" * 5000, "image_not_found"),
        ("ftp://a/b", "image_refused"),
        ("gs://bucket/b", "image_refused"),
        ("data:image/png;base64,AAAA", "image_refused"),
        ("s3://", "image_refused"),
        ("s3://bucket", "image_refused"),
        ("s3://key:pw@bucket/x", "image_refused"),
        ("http://a.org/x.jpg", "image_refused"),
    ],
)
def test_local_refusals(root, path, error):
    result = fetcher().fetch(path.format(root=root), str(root))
    assert error_of(result) == error and "pw" not in str(result)


def test_links_count_by_what_they_point_to(root, tmp_path):
    (root / "inner.jpg").symlink_to(root / "a.jpg")
    (root / "outer.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "folder").symlink_to(tmp_path)
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    assert fetcher().fetch("inner.jpg", str(root)) == DATA
    assert error_of(fetcher().fetch("outer.jpg", str(root))) == "image_refused"
    assert error_of(fetcher().fetch("folder/secret.jpg", str(root))) == "image_refused"
    assert isinstance(fetcher().fetch("loop.jpg", str(root)), Reject)


def test_a_pipe_does_not_hang(root):
    os.mkfifo(root / "pipe.jpg")
    assert error_of(fetcher().fetch("pipe.jpg", str(root))) == "image_refused"


def test_the_size_limit(root):
    assert fetcher(max_bytes=len(DATA)).fetch("a.jpg", str(root)) == DATA
    assert error_of(fetcher(max_bytes=len(DATA) - 1).fetch("a.jpg", str(root))) == "image_too_large"


def test_rows(root):
    """Each image is read once, rows keep their order, and what needs no fetching passes through."""
    reject = Reject("bad_row", "before")
    given = [
        Row("1", "a.jpg", (RowImage("a.jpg", "a.jpg"),), str(root)),
        Row("2", "x", (RowImage("x", data=b"inline"),)),
        Row("3", "x", reject=reject),
        Row("4", "a.jpg", (RowImage("a.jpg", "a.jpg"),), str(root)),
        Row("5", "no.jpg", (RowImage("no.jpg", "no.jpg"),), str(root)),
        Row("6", "x", (RowImage("x", data=b"x" * 20_000),)),
    ]
    found = fetcher().fetch_rows(given)
    assert [row.id for row in found] == ["1", "2", "3", "4", "5", "6"]
    assert [[image.data for image in row.images] for row in found] == [[DATA], [b"inline"], [], [DATA], [], []]
    errors = [row.reject and row.reject.error for row in found]
    assert errors == [None, None, "bad_row", None, "image_not_found", "image_too_large"]
    assert found[0].fetch_ms == found[3].fetch_ms > 0 and found[1].fetch_ms == 0


# --- S3 ---


def test_s3(s3):
    bucket = s3.new_bucket()
    s3.client.put_object(Bucket=bucket, Key="in/ünï code.jpg", Body=DATA)
    s3.client.put_object(Bucket=bucket, Key="big", Body=b"x" * 20_000)
    fetch = fetcher(Storage.from_environment(environment=s3.environment)).fetch
    assert fetch(f"s3://{bucket}/in/ünï code.jpg", "") == DATA
    assert fetch("ünï code.jpg", f"s3://{bucket}/in") == DATA
    assert fetch("./ünï code.jpg", f"s3://{bucket}/in") == DATA
    assert error_of(fetch("../big", f"s3://{bucket}/in")) == "image_refused"
    assert error_of(fetch("/big", f"s3://{bucket}/in")) == "image_refused"
    assert error_of(fetch(f"s3://{bucket}/big", "")) == "image_too_large"
    assert error_of(fetch(f"s3://{bucket}/none", "")) == "image_not_found"
    assert error_of(fetch("s3://no-such-bucket-here/x", "")) == "image_not_found"


def test_s3_with_a_wrong_secret(s3):
    bucket = s3.new_bucket()
    s3.client.put_object(Bucket=bucket, Key="x", Body=DATA)
    environment = s3.environment | {"AWS_SECRET_ACCESS_KEY": "wrong-secret-77"}
    result = fetcher(Storage.from_environment(environment=environment)).fetch(f"s3://{bucket}/x", "")
    assert error_of(result) == "image_fetch_failed" and "wrong-secret-77" not in str(result)
    assert "SignatureDoesNotMatch" in result.message and result.retryable, "the row is not at fault"


PASSING = ("slow_down", "unavailable", "expired", "expired_403", "skewed", "reset", "reset_body", "truncated", "short",
           "long", "flipped")  # fmt: skip


@pytest.mark.parametrize("kind", PASSING)
def test_s3_faults_that_pass(s3, kind):
    """Whatever goes wrong, the bytes are the object's; what goes wrong each time is a reject that can be retried."""
    bucket = s3.new_bucket()
    s3.client.put_object(Bucket=bucket, Key="a.jpg", Body=DATA)
    with FaultyStore(s3.endpoint, [Fault(kind, first=2)]) as store:
        fetch = fetcher(Storage.from_environment(store.endpoint, s3.environment)).fetch
        assert fetch(f"s3://{bucket}/a.jpg", "") == DATA
        assert store.count(kind) == 2
        store.faults = (Fault(kind),)
        result = fetch(f"s3://{bucket}/a.jpg", "")
        assert error_of(result) == "image_fetch_failed" and result.retryable and store.count(kind) == 2 + ATTEMPTS


@pytest.mark.parametrize(("kind", "error"), [("denied", "image_forbidden"), ("unknown_key", "image_fetch_failed")])
def test_s3_faults_that_stay(s3, kind, error):
    bucket = s3.new_bucket()
    s3.client.put_object(Bucket=bucket, Key="a.jpg", Body=DATA)
    with FaultyStore(s3.endpoint, [Fault(kind)]) as store:
        fetch = fetcher(Storage.from_environment(store.endpoint, s3.environment)).fetch
        assert error_of(fetch(f"s3://{bucket}/a.jpg", "")) == error
        assert store.count(kind) == 1, "asking again would be in vain"


def test_s3_bytes_that_trickle(s3):
    bucket = s3.new_bucket()
    s3.client.put_object(Bucket=bucket, Key="a.jpg", Body=DATA)
    with FaultyStore(s3.endpoint, [Fault("slow", seconds=0.5)]) as store:
        fetch = fetcher(Storage.from_environment(store.endpoint, s3.environment)).fetch
        assert fetch(f"s3://{bucket}/a.jpg", "") == DATA


def test_s3_bytes_are_looked_at_as_they_arrive(s3, monkeypatch):
    """A deadline that is looked at once they are all there is none."""
    bucket, chunks = s3.new_bucket(), list[bytes]()

    def read(given: Iterator[bytes], limit: int) -> bytes:
        chunks.extend(given)
        return b"".join(chunks)

    monkeypatch.setattr(module, "read_within", read)
    s3.client.put_object(Bucket=bucket, Key="a.jpg", Body=DATA)
    with FaultyStore(s3.endpoint, [Fault("slow")]) as store:
        fetch = fetcher(Storage.from_environment(store.endpoint, s3.environment)).fetch
        assert fetch(f"s3://{bucket}/a.jpg", "") == DATA and len(chunks) > 1


def test_s3_objects_in_parts_have_no_md5_to_compare(s3):
    bucket, part = s3.new_bucket(), os.urandom(5 * 2**20)
    upload = s3.client.create_multipart_upload(Bucket=bucket, Key="big.jpg")["UploadId"]
    place = {"Bucket": bucket, "Key": "big.jpg", "UploadId": upload}
    parts = [
        {"PartNumber": n, "ETag": s3.client.upload_part(**place, PartNumber=n, Body=body)["ETag"]}
        for n, body in ((1, part), (2, DATA))
    ]
    s3.client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
    storage = Storage.from_environment(environment=s3.environment)
    assert fetcher(storage, max_bytes=10**8).fetch(f"s3://{bucket}/big.jpg", "") == part + DATA


@pytest.mark.parametrize(
    ("bucket", "answer", "promised"),
    [
        ("b", {"ETag": '"D41D8CD98F00B204E9800998ECF8427E"'}, "d41d8cd98f00b204e9800998ecf8427e"),
        ("b", {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"', "ServerSideEncryption": "AES256"}, md5(b"")),
        ("b", {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"', "ServerSideEncryption": "aws:kms"}, None),
        ("b", {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"', "SSECustomerAlgorithm": "AES256"}, None),
        ("b", {"ETag": '"d41d8cd98f00b204e9800998ecf8427e-2"'}, None),
        ("b--use1-az4--x-s3", {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'}, None),
        ("b", {}, None),
    ],
)
def test_which_etags_are_the_md5(bucket, answer, promised):
    assert promised_md5(bucket, answer) == promised


def test_what_a_store_asks_to_wait_is_granted_within_reason():
    assert [retry_after(headers) for headers in ({}, {"retry-after": "3"}, {"retry-after": "86400"})] == [0, 3, 30]
    assert retry_after({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}) == 0


def test_s3_that_is_down_can_be_retried():
    storage = Storage("http://127.0.0.1:9", "us-east-1", ("a", "b"))
    result = fetcher(storage).fetch("s3://bucket/x", "")
    assert isinstance(result, Reject) and result.error == "image_fetch_failed" and result.retryable


def test_a_storage_shows_no_keys():
    storage = Storage.from_environment(environment={"AWS_ACCESS_KEY_ID": "k1", "AWS_SECRET_ACCESS_KEY": "k2"})
    assert "k1" not in repr(storage) and "k2" not in repr(storage) and not hasattr(storage, "__dataclass_fields__")


# --- other stores ---


def test_a_path_in_other_stores_may_have_any_letters():
    assert Storage().filesystem("gs://anonymous@bucket/a b/é[1].jpg")[1] == "bucket/a b/é[1].jpg"


class Elsewhere(Storage):
    """A store whose bucket is a local folder. It opens what the operator names."""

    def __init__(self, bucket: Path) -> None:
        super().__init__()
        self.bucket = bucket

    def filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        assert uri == "gs://bucket/root", "options of a URI are the operator's, not the data's"
        return pyarrow.fs.SubTreeFileSystem(str(self.bucket), pyarrow.fs.LocalFileSystem()), "root"


@pytest.mark.parametrize("name", ["a.jpg", "sub/ünï.jpg", "a b.jpg", "a#b.jpg", "a%20b%zz.jpg", "a.jpg?scheme=http"])
def test_names_in_other_stores_are_taken_as_they_are(root, tmp_path, name):
    (root / name).write_bytes(DATA)
    fetch = fetcher(Elsewhere(tmp_path)).fetch
    assert fetch(name, "gs://bucket/root") == fetch(f"gs://bucket/root/{name}", "gs://bucket/root") == DATA


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "gs://other/a.jpg", "%2e%2e/secret.jpg", "a.jpg?endpoint_override=x"]
)
def test_nothing_else_of_other_stores_is_opened(root, tmp_path, name):
    error = error_of(fetcher(Elsewhere(tmp_path)).fetch(name, "gs://bucket/root"))
    assert error == ("image_refused" if ".." in name or "other" in name else "image_not_found")


# --- HTTP ---


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says: /status/404, /redirect/TO, /short, /flaky/NAME (fails twice), /length/TEXT, /trickle,
    else DATA."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        kind, _, rest = self.path.removesuffix("?key=hidden").removeprefix("/").partition("/")
        if kind == "status":
            return self._answer(int(rest), b"")
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", unquote(rest, "latin-1"))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if kind == "short":
            self.send_response(200)
            self.send_header("Content-Length", "9999")
            self.end_headers()
            self.wfile.write(b"half")
            return None
        if kind == "flaky" and self.seen.count(self.path) < 3:
            return self._answer(503, b"")
        if kind == "length":
            self.wfile.write(
                f"HTTP/1.0 200 OK\r\nContent-Length: {unquote(rest, 'latin-1')}\r\n\r\nx".encode("latin-1")
            )
            return None
        if kind == "trickle":  # a header, or a body of no given length, in single bytes
            self.send_response(200)
            self.flush_headers()
            self.wfile.write(b"X-Long: " if rest == "header" else b"\r\n")
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            return None
        if kind == "endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 50_000)
            return None
        return self._answer(200, DATA)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    Handler.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def loopback(address: str) -> bool:
    return address in ("127.0.0.1", "::1")


def test_http(web):
    fetch = fetcher(allow_http=True, allowed=loopback).fetch
    assert fetch(f"{web}/a.jpg?size=2", "") == DATA
    assert Handler.seen == ["/a.jpg?size=2"]
    assert fetch(f"{web}/redirect//b.jpg", "") == DATA
    assert fetch(f"{web}/flaky/c.jpg", "") == DATA
    assert Handler.seen.count("/flaky/c.jpg") == 3


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/a b.jpg?q=c d", "/a%20b.jpg?q=c%20d"),
        ("/é%20.jpg?x=%", "/%C3%A9%20.jpg?x=%"),
        ("/redirect//ü.jpg", "/%C3%BC.jpg"),
        ("/[a]|{b}", "/[a]|{b}"),
    ],
)
def test_http_urls_as_people_write_them(web, path, asked):
    assert fetcher(allow_http=True, allowed=loopback).fetch(f"{web}{path}", "") == DATA
    assert Handler.seen[-1] == asked


def test_http_hosts_beyond_ascii(web, monkeypatch):
    asked = []
    monkeypatch.setattr(http, "_address", lambda url, host, port, allowed: asked.append(host) or "127.0.0.1")
    url = web.replace("localhost", "bücher.example")
    assert fetcher(allow_http=True).fetch(f"{url}/a.jpg", "") == DATA and asked == ["xn--bcher-kva.example"]


@pytest.mark.parametrize(
    ("path", "error", "tries"),
    [
        ("/status/404", "image_not_found", 1),
        ("/status/410", "image_not_found", 1),
        ("/status/403", "image_forbidden", 1),
        ("/status/418", "image_refused", 1),
        ("/status/500", "image_fetch_failed", ATTEMPTS),
        ("/status/429", "image_fetch_failed", ATTEMPTS),
        ("/short", "image_fetch_failed", ATTEMPTS),
        ("/endless", "image_too_large", 1),
        ("/redirect/http://[x", "image_refused", 1),
        ("/length/%B2", "image_refused", 1),
        ("/length/" + 5000 * "9", "image_refused", 1),
    ],
)
def test_http_errors(web, path, error, tries):
    result = fetcher(allow_http=True, allowed=loopback).fetch(f"{web}{path}?key=hidden", "")
    assert error_of(result) == error and "hidden" not in str(result)
    assert len(Handler.seen) == tries


@pytest.mark.parametrize("part", ["header", "body"])
def test_http_answers_that_trickle_are_cut_off(web, part, monkeypatch):
    """Each byte comes in time, the whole answer doesn't."""
    monkeypatch.setattr(http, "DEADLINE", 0.5)
    result = fetcher(allow_http=True, allowed=loopback).fetch(f"{web}/trickle/{part}", "")
    assert error_of(result) == "image_fetch_failed" and "TimeoutError" in result.message


def test_http_redirects_end(web):
    loop = f"{web}/redirect/" + "/redirect/" * 10
    assert error_of(fetcher(allow_http=True, allowed=loopback).fetch(loop, "")) == "image_refused"


def test_http_to_private_addresses_is_refused(web):
    """Loopback is not public: the server is never asked, not by name, number, or on a redirect."""
    port = web.rpartition(":")[2]
    fetch = fetcher(allow_http=True).fetch
    for host in ("localhost", "127.0.0.1", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"):
        assert error_of(fetch(f"http://{host}:{port}/x", "")) == "image_refused", host
    assert Handler.seen == []
    redirect = f"{web}/redirect/http://169.254.169.254/latest"
    assert error_of(fetcher(allow_http=True, allowed=loopback).fetch(redirect, "")) == "image_refused"
    assert (
        error_of(fetcher(allow_http=True, allowed=loopback).fetch(f"{web}/redirect/file:///etc/passwd", ""))
        == "image_refused"
    )


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a b/", "http:///x", "https://host:99999/x", "http://\udc80/"]
)
def test_http_urls_that_are_none(url):
    assert error_of(fetcher(allow_http=True).fetch(url, "")) in ("image_refused", "image_not_found")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:0a00:0001::", False),
        ("192.0.0.192", False),
        ("168.63.129.16", False),
        ("64:ff9b:1::a9fe:a9fe", False),
        ("::127.0.0.1", False),
        ("fec0::1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize("key", ["a//b.jpg", "a/../b.jpg", "a/b.jpg.", "a/./b.jpg", "a b+c%20d?e#f.jpg"])
def test_keys_of_s3_are_taken_as_they_are(s3, key):
    """In a store dots and slashes mean nothing: each of these is another object than what it would be on a disk."""
    bucket = s3.new_bucket()
    s3.client.put_object(Bucket=bucket, Key=f"in//{key}", Body=b"right")
    for wrong in ("in/b.jpg", "in/a/b.jpg", "b.jpg", "a/b.jpg"):
        s3.client.put_object(Bucket=bucket, Key=wrong, Body=b"wrong")
    fetcher = Fetcher(Storage.from_environment(environment=s3.environment), 10**6, pause=0.0)
    assert fetcher.fetch(f"s3://{bucket}/in//{key}", "/nowhere") == b"right"
    assert fetcher.fetch(key, f"s3://{bucket}/in/") == b"right"
    assert fetcher.fetch(f"./{key}", f"s3://{bucket}/in/") == b"right"
