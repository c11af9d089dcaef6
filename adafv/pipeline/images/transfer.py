"""Reading a body of unknown length and speed within bounds, and `Refused`, by which a fetch is given up."""

from __future__ import annotations

import time
from collections.abc import Iterable

from adafv.pipeline.rejects import Reject
from adafv.pipeline.store.s3 import DEADLINE


class Refused(Exception):  # noqa: N818  (control flow, not an error)
    """A fetch that failed; it stays inside the fetch stage, which turns it into its reject.

    Attributes:
        reject: what becomes of the row.
        again: seconds after which another attempt may succeed, by the server, 0 where it didn't say; None if none will.
    """

    def __init__(self, error: str, message: str, again: float | None = None) -> None:
        super().__init__(message)
        self.reject, self.again = Reject(error, message), again

    @classmethod
    def of(cls, reject: Reject) -> Refused:
        return cls(reject.error, reject.message)


def read_within(chunks: Iterable[bytes], max_bytes: int, deadline: float = DEADLINE) -> bytes:
    """The chunks in one piece; refused as soon as they are too many or take too long."""
    end, data = time.monotonic() + deadline, bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > max_bytes:
            raise Refused("image_too_large", f"more than {max_bytes} bytes, which is the limit")
        if time.monotonic() > end:
            raise Refused("image_fetch_failed", f"not complete after {deadline:.0f} s", again=0.0)
    return bytes(data)
