"""http(s) images, from public addresses only.

A data set that names http://169.254.169.254/ or a host inside the company would make the job fetch it with the job's
own reach. So the host is resolved here, once; every address must be public; and the connection goes to the address that
was checked, not to whatever a second look-up returns. Redirects are followed by hand, each through the same checks.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.util import Retry, Timeout

from adafv.pipeline.images.transfer import Refused, read_within
from adafv.pipeline.redaction import public_uri
from adafv.pipeline.store.retry import is_passing, wished_pause

Address = Callable[[str], bool]
REDIRECTS = 5
TIMEOUT = Timeout(connect=10, read=30)
HEADERS = {"User-Agent": "adafv", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public Internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64: the last 32 bits are an IPv4 address
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


def read_http(url: str, max_bytes: int, allowed: Address = is_public) -> bytes:
    """The body at `url`, at most `max_bytes` of it, from an address that is `allowed`. Raises Refused."""
    for _ in range(REDIRECTS + 1):
        answer = _get(url, allowed)
        try:
            location = answer.get_redirect_location()
            if not location:
                return _body(url, answer, max_bytes)
            url = urljoin(url, location)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _failed(url, error) from error
        finally:
            answer.close()
    raise Refused("image_refused", f"{public_uri(url)}: more than {REDIRECTS} redirects")


def _get(url: str, allowed: Address) -> urllib3.BaseHTTPResponse:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Refused("image_refused", f"{public_uri(url)} is no URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Refused("image_refused", f"{public_uri(url)} is no http(s) URL")
    pool = _pool(parts, host, _address(url, host, port, allowed), port)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = HEADERS | {"Host": parts.netloc.rpartition("@")[2]}
    try:
        return pool.urlopen(
            "GET", target, headers=headers, retries=Retry(0, redirect=False), redirect=False, preload_content=False,
            timeout=TIMEOUT,
        )  # fmt: skip
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _failed(url, error) from error
    except ValueError as error:  # e.g. characters that HTTP forbids in a request line
        raise Refused("image_refused", f"{public_uri(url)} is no URL: {type(error).__name__}") from error


def _address(url: str, host: str, port: int, allowed: Address) -> str:
    """An address of `host`, all of which must be allowed."""
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


def _pool(parts: SplitResult, host: str, address: str, port: int) -> urllib3.HTTPConnectionPool:
    """A connection to `address` that speaks to, and demands the certificate of, `host`."""
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(address, port)
    return urllib3.HTTPSConnectionPool(
        address, port, server_hostname=host, assert_hostname=host, cert_reqs="CERT_REQUIRED"
    )


def _body(url: str, answer: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    status = answer.status
    if is_passing(status):
        again = wished_pause(answer.headers)
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


def _failed(url: str, error: Exception) -> Refused:
    """A connection that broke or was never made. The error's own text may repeat the URL, secrets and all."""
    return Refused("image_fetch_failed", f"{public_uri(url)}: {type(error).__name__}", again=0.0)
