"""How well a run uses its machines: speed, MFU, memory, waiting for data, and goodput over all restarts."""

import time

import jax

PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "A100": 312e12,
}
"""bf16 operations a second of one device, without sparsity, by how JAX names it; from the makers' pages."""


def peak_flops(device_kind: str) -> float | None:
    """Peak operations a second of a device; None where it is not known, as for CPUs."""
    fits = [name for name in PEAKS if name in device_kind]
    return PEAKS[max(fits, key=len)] if fits else None


def memory_figures() -> dict[str, float]:
    """Bytes on the fullest local device, in GB; nothing where the platform does not tell."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    names = {"hbm_peak_gb": "peak_bytes_in_use", "hbm_gb": "bytes_in_use", "hbm_limit_gb": "bytes_limit"}
    return {
        ours: max(one[theirs] for one in stats) / 1e9
        for ours, theirs in names.items()
        if all(theirs in one for one in stats)
    }


class Meters:
    """Times of one session, and what earlier ones had got done."""

    def __init__(self, *, began: float | None = None, productive: float = 0.0):
        """Starts the clock.

        Args:
          began: when the run first started, in seconds since 1970; None is now.
          productive: seconds of steps that the checkpoint holds.
        """
        self.began = time.time() if began is None else began
        self.productive = productive
        self._peak = peak_flops(jax.local_devices()[0].device_kind)
        self._start()

    def _start(self) -> None:
        self._since, self._waited, self._aside = time.perf_counter(), 0.0, 0.0
        self._steps, self._tokens, self._flops = 0, 0.0, 0.0

    def waited(self, seconds: float) -> None:
        """The devices' next batch was not there yet."""
        self._waited += seconds

    def aside(self, seconds: float) -> None:
        """Time that no step took: previews, checkpoints, the first compilation."""
        self._aside += seconds

    def step(self, tokens: float, flops: float) -> None:
        """A step is done."""
        self._steps, self._tokens, self._flops = self._steps + 1, self._tokens + tokens, self._flops + flops

    def figures(self) -> dict[str, float]:
        """Figures since the last call."""
        seconds = max(time.perf_counter() - self._since - self._aside, 1e-9)
        self.productive += seconds - self._waited
        found = {
            "steps_per_second": self._steps / seconds,
            "data_wait": self._waited / seconds,
            "goodput": min(1.0, self.productive / max(time.time() - self.began, 1e-9)),
            **memory_figures(),
        }
        if self._tokens:
            found["tokens_per_second"] = self._tokens / seconds
        if self._flops:
            found["tflops_per_device"] = self._flops / seconds / jax.device_count() / 1e12
        if self._flops and self._peak:
            found["mfu"] = self._flops / seconds / jax.device_count() / self._peak
        self._start()
        return found

    def to_json(self) -> dict[str, float]:
        """What a checkpoint keeps for the next session."""
        return {"began": self.began, "productive": self.productive}
