"""http(s) images, from public addresses only.

A data set could name http://169.254.169.254/ or an internal host. So the host is resolved here, once; every address
must be public; and the connection goes to the checked address. Redirects are followed by hand, each through the same
checks.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_match_hostname import CertificateError

from adafv.pipeline.redaction import public_uri
from adafv.pipeline.rejects import Reject
from adafv.pipeline.store.retry import is_passing, retry_after
from adafv.pipeline.store.s3 import DEADLINE

Address = Callable[[str], bool]
REDIRECTS = 5
CONNECT, READ = 10.0, 30.0  # seconds to connect, and to wait for the next bytes
# What Python 3.11.7 takes for public: hosts of Oracle's and Azure's clouds, NAT64 of a network's own, IPv4 in IPv6, and
# addresses of a site.
NOT_PUBLIC = [
    ipaddress.ip_network(one) for one in ("192.0.0.0/24", "168.63.129.16", "64:ff9b:1::/48", "::/96", "fec0::/10")
]
HEADERS = {"User-Agent": "adafv", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


class Refused(Exception):  # noqa: N818  (control flow, not an error)
    """A failed fetch. It stays inside the fetch stage, which turns it into its reject.

    Attributes:
        reject: what becomes of the row.
        retry_after: seconds to wait before another attempt, 0 if the server doesn't say; None if none can succeed.
    """

    def __init__(self, error: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reject, self.retry_after = Reject(error, message), retry_after

    @classmethod
    def of(cls, reject: Reject) -> Refused:
        return cls(reject.error, reject.message)


def read_within(chunks: Iterable[bytes], max_bytes: int, deadline: float = DEADLINE) -> bytes:
    """The joined chunks; refused as soon as they are too many or take too long."""
    end, data = time.monotonic() + deadline, bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > max_bytes:
            raise Refused("image_too_large", f"more than {max_bytes} bytes, which is the limit")
        if time.monotonic() > end:
            raise Refused("image_fetch_failed", f"not complete after {deadline:.0f} s", retry_after=0.0)
    return bytes(data)


def is_public(address: str) -> bool:
    """Whether an IP address is on the public Internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64: the last 32 bits are an IPv4 address
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in NOT_PUBLIC)


def read_http(url: str, max_bytes: int, allowed: Address = is_public) -> bytes:
    """The body at `url`, at most `max_bytes`, from an address that is `allowed`. Raises Refused."""
    end = time.monotonic() + DEADLINE
    for _ in range(REDIRECTS + 1):
        with _answer(url, allowed, end) as answer:
            location = answer.get_redirect_location()
            if not location:
                return _body(url, answer, max_bytes)
            url = urljoin(url, location.encode("latin-1", "replace").decode("utf-8", "replace"))  # as browsers read it
    raise Refused("image_refused", f"{public_uri(url)}: more than {REDIRECTS} redirects")


@contextlib.contextmanager
def _answer(url: str, allowed: Address, end: float) -> Iterator[urllib3.BaseHTTPResponse]:
    """The answer to a request, with its body to be read until `end`. Errors in the block become Refused, too: it reads
    what a stranger wrote."""
    try:
        parts = urlsplit(url)
        host, port = _in_ascii(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
        named = _in_ascii(parts.netloc.rpartition("@")[2])
    except ValueError as error:
        raise Refused("image_refused", f"{public_uri(url)} is no URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Refused("image_refused", f"{public_uri(url)} is no http(s) URL")
    connection = _connection(parts, host, _address(url, host, port, allowed), port)
    target = _quoted((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    headers = HEADERS | {"Host": named}
    try:
        connection.connect()
        connection.timeout = READ
        with _ending(connection.sock, end):
            connection.request("GET", target, headers=headers, preload_content=False, decode_content=False)
            yield connection.getresponse()
    except (urllib3.exceptions.HTTPError, HTTPException, CertificateError, OSError) as error:
        # The error's own text may repeat the URL with its secrets, so it is left out.
        raise Refused("image_fetch_failed", f"{public_uri(url)}: {type(error).__name__}", retry_after=0.0) from error
    except ValueError as error:
        # Characters that HTTP forbids in a request, a redirect to no URL, a length of no digits.
        wrong = f"{public_uri(url)} is no URL, or its answer no HTTP: {type(error).__name__}"
        raise Refused("image_refused", wrong) from error
    finally:
        connection.close()


def _in_ascii(host: str | None) -> str:
    """A host, perhaps with a port, as the network names it. Raises ValueError if it can't be named."""
    return host.encode("idna").decode() if host and not host.isascii() else host or ""


def _quoted(target: str) -> str:
    """A path and query with spaces and characters beyond ASCII escaped, as browsers do it: HTTP forbids them."""
    return re.sub("[^!-~]", lambda found: quote(found[0]), target)


@contextlib.contextmanager
def _ending(connected: socket.socket, end: float) -> Iterator[None]:
    """Break a connection off at `end`, on the monotonic clock: a server that trickles never hits a read time-out.
    Raises TimeoutError then."""
    over = threading.Event()

    def cut() -> None:
        over.set()
        with contextlib.suppress(OSError):  # closed meanwhile
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, end - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if over.is_set():  # a body without a length looks complete
            raise TimeoutError


def _address(url: str, host: str, port: int, allowed: Address) -> str:
    """An address of `host`; all of its addresses must be allowed."""
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (socket.gaierror, UnicodeError) as error:
        passing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        wording, again = ("image_fetch_failed", 0.0) if passing else ("image_not_found", None)
        raise Refused(wording, f"{public_uri(url)}: the host can't be resolved", again) from error
    refused = [address for address in found if not allowed(address)]
    if refused or not found:
        raise Refused(
            "image_refused", f"{public_uri(url)}: {host} is {', '.join(refused) or 'nowhere'}, not a public address"
        )
    return found[0]


def _connection(parts: SplitResult, host: str, address: str, port: int) -> HTTPConnection:
    """A connection to `address` that names `host` and checks its certificate."""
    if parts.scheme == "http":
        return HTTPConnection(address, port, timeout=CONNECT)
    return HTTPSConnection(
        address, port, timeout=CONNECT, server_hostname=host, assert_hostname=host, cert_reqs="CERT_REQUIRED"
    )


def _body(url: str, answer: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    status = answer.status
    if is_passing(status):
        again = retry_after(answer.headers)
        raise Refused("image_fetch_failed", f"{public_uri(url)} answered {status}", again)
    if status in (404, 410):
        raise Refused("image_not_found", f"{public_uri(url)} answered {status}")
    if status in (401, 402, 403, 407, 451):
        raise Refused("image_forbidden", f"{public_uri(url)} answered {status}")
    if status != 200:
        raise Refused("image_refused", f"{public_uri(url)} answered {status}")
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise Refused("image_too_large", f"{length} bytes; the limit is {max_bytes}")
    return read_within(answer.stream(2**16, decode_content=False), max_bytes)
