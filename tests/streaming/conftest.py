"""An engine over a backend without a model; no test leaves a thread of a stream."""

import pytest

from tests.streaming.fake import FakeBackend
from tests.streaming.threads import eventually, stages
from tm_jax.streaming.engine import StreamEngine


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def engine(backend) -> StreamEngine:
    return StreamEngine(backend)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    eventually(lambda: not stages())
