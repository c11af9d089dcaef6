"""Each variant's model, built once a session, and the notes that the matrix is made of."""

from __future__ import annotations

import pytest

from tests.models.conformance.matrix import RESULTS, Collector
from tests.models.conformance.subject import Subject
from tests.models.conformance.variants import VARIANTS


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: variant.name)
def subject(request, tmp_path_factory) -> Subject:
    """One variant. Tests that ask for it run variant by variant, so that one model is there at a time."""
    return Subject(request.param, request.param.build(tmp_path_factory.mktemp("model")))


@pytest.fixture
def column(request, subject) -> None:
    """Every test that stands in the matrix asks for it: where the variant has nothing there, it says why."""
    reason = subject.variant.inapplicable.get(Collector.column(request.node))
    if reason:
        pytest.skip(reason)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    RESULTS.note(item, outcome.get_result())
