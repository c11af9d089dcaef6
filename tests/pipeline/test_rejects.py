"""Messages that people can be shown: no credentials, no control characters, no novels."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.redaction import MESSAGE_LIMIT, public_uri, redact
from adafv.pipeline.rejects import ERRORS, Reject


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.org/x.jpg", "https://a.org/x.jpg"),
        ("GET https://user:pw@a.org/x.jpg failed", "GET https://a.org/x.jpg failed"),
        (
            "https://b.s3.amazonaws.com/x.jpg?X-Amz-Signature=abc&X-Amz-Credential=d",
            "https://b.s3.amazonaws.com/x.jpg?…",
        ),
        ("'s3://key:secret@bucket/x'", "'s3://bucket/x'"),
        ("see https://a.org/x#token=1 and http://b/?q=2", "see https://a.org/x?… and http://b/?…"),
        ("what? no URI, a@b.c", "what? no URI, a@b.c"),
        ("s3://AKIA:ab/cd+ef@bucket/x", "s3://bucket/x"),
        ("https://user:p@ss@a.org/x", "https://a.org/x"),
        ("https://a.org:8080/@b/c@2x.png", "https://a.org:8080/@b/c@2x.png"),
        ("url: /x.jpg?a=1&X-Amz-Signature=abc&b=2", "url: /x.jpg?a=1&X-Amz-Signature=…&b=2"),
        ("x://" * 1000, "x://" * 1000),
    ],
)
def test_redact(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://u:p@a.org/x.jpg?sig=a b'c", "https://a.org/x.jpg?…"),
        ("HTTP://a.org/x.jpg", "HTTP://a.org/x.jpg"),
        ("s3://b/what?.tar#a/b.jpg", "s3://b/what?.tar#a/b.jpg"),
        ("gs://b/a.tar#b.jpg", "gs://b/a.tar#b.jpg"),
        ("ftp://u@h/x?sig=1", "ftp://h/x?…"),
        ("https://h/x#token=1", "https://h/x?…"),
        ("s3://AKIA:ab/cd@b/x", "s3://b/x"),
        ("a b/c?d@e.jpg", "a b/c?d@e.jpg"),
    ],
)
def test_public_uri(uri, shown):
    assert public_uri(uri) == shown


@pytest.mark.parametrize("part", ["a", "a1", "//", "a://", "x://a:", "'", "://@", "sig=", "https://u:p"])
def test_no_text_takes_long(part):
    """Quadratic time would be hours."""
    assert len(Reject("bad_row", part * 1_000_000).message) <= MESSAGE_LIMIT


def test_messages_are_short():
    assert len(Reject("bad_row", "x" * 10_000).message) == MESSAGE_LIMIT


@given(st.text(st.characters(codec=None), max_size=600))
def test_any_message_fits_parquet_and_a_terminal(text):
    message = Reject("image_corrupt", text).message
    assert pa.array([message]).to_pylist() == [message]
    assert message.isprintable()


def test_the_list_is_closed():
    with pytest.raises(ValueError, match="'oops'"):
        Reject("oops", "")
    retryable = ["source_unreadable", "image_fetch_failed", "answer_incomplete"]
    assert [name for name, error in ERRORS.items() if error.retryable] == retryable
    assert Reject("prompt_empty", "").stage == "prepare"
