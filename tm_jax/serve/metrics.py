"""Figures of the server in Prometheus's form."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0)


class Metrics:
    """One set of figures for each server, so that tests and servers do not share theirs."""

    def __init__(self):
        self.registry = CollectorRegistry()
        make = {"registry": self.registry}
        self.sessions = Gauge("tm_sessions", "Calls in progress", **make)
        self.capacity = Gauge("tm_capacity", "Calls that this machine can serve at once", **make)
        self.calls = Counter("tm_calls", "Calls begun", **make)
        self.refused = Counter("tm_refused", "Requests refused", ["status"], **make)
        self.chunks = Counter("tm_chunks", "Chunks made", **make)
        self.stalls = Counter("tm_stalls", "Frames shown again because none was there", **make)
        self.skipped = Counter("tm_skipped_chunks", "Chunks of speech played beside a still frame", **make)
        self.answer = Histogram(
            "tm_answer_seconds",
            "End of the user's speech to the answer's first frame",
            buckets=SECONDS,
            **make,
        )
        self.first_frame = Histogram(
            "tm_first_frame_seconds", "Accepted call to its first made frame", buckets=SECONDS, **make
        )
        self.chunk_time = Gauge("tm_chunk_seconds", "Time to make a chunk, measured at start", **make)

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self.registry)
