"""What tests of the drawn worlds share."""

import pytest
import torch


def conversation(text):
    """One picture and one question, as chat templates take them."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """At this size more only wait for each other, and the more so the busier the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
