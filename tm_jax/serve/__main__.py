"""A live call in the browser: python -m tm_jax.serve --image me.png

Open the link that it prints, allow the microphone, and talk.  Without --image a shipped drawing answers.
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tm_jax.command import run
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath, parse

IMAGE = Path(__file__).parents[1] / "assets" / "shaded.png"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Serve live calls with a character."""

    image: ShippedPath = IMAGE
    """Picture of the character; callers may choose their own on the page."""
    weights: ShippedPath = WEIGHTS
    """Folder of the models: ours for jax, an export for torch."""
    backend: Literal["jax", "torch"] = "jax"
    """jax, or torch for an export of tm_jax.export."""
    dit_devices: str = ""
    """Device of the transformer, like cuda:0, or of JAX several, like cuda:0-3 (default: the first)."""
    vae_devices: str = ""
    """Device of the VAE, or of JAX several, like cuda:4-7 (default: a second one where there is one)."""
    steps: int | None = None
    """Denoising steps of a chunk (default: those that the student was distilled for)."""
    voice: Literal["offline", "mirror", "realtime"] = "offline"
    """offline: a scripted character on this machine; mirror: it says what you say; realtime: a service."""
    voice_url: str = "wss://api.openai.com/v1/realtime"
    """WebSocket address of a service that speaks the OpenAI Realtime protocol."""
    voice_model: str = "gpt-realtime"
    """Model of that service.  Its key is read from TM_JAX_VOICE_KEY or OPENAI_API_KEY alone."""
    voice_transcription: str = ""
    """The service's model that writes down what the caller says, for captions (default: none)."""
    voice_name: str = ""
    """The service's voice, or espeak-ng's for offline."""
    script: Path | None = None
    """Text file of patterns and answers for the offline voice (default: the shipped one)."""
    whisper: Path | None = None
    """Folder of a faster-whisper model: the offline voice hears by it."""
    piper: Path | None = None
    """A piper voice (.onnx): the offline voice speaks by it."""
    host: str = "127.0.0.1"
    """Address to listen at.  Anything but loopback needs TLS and a token, which is printed once as a link."""
    port: int = 8000
    """Port to listen at."""
    tls_certificate: Path | None = None
    """Certificate chain (PEM); browsers give no microphone to pages of other machines without TLS."""
    tls_key: Path | None = None
    """Its key (PEM)."""
    insecure: bool = False
    """Serve other machines without TLS, for instance behind a proxy that has it."""
    max_calls: int = 0
    """Calls at once; 0 measures what this machine can serve."""

    def __post_init__(self):
        if not 0 <= self.port < 65536:
            raise InputError(f"--port {self.port} is no port: give one of 1 to 65535.")
        if self.max_calls < 0:
            raise InputError(f"--max-calls {self.max_calls} is negative: give 0 or more.")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InputError("--tls-certificate and --tls-key belong together: give both.")


def voice_factory(arguments: Arguments) -> Callable:
    """Makes the voice of each call.

    Raises:
      InputError: a part of the voice is missing.
    """
    from tm_jax.serve.voices.mirror import Mirror
    from tm_jax.serve.voices.offline import Offline, OfflineConfig, check_offline
    from tm_jax.serve.voices.realtime import Realtime, RealtimeConfig
    from tm_jax.serve.voices.script import SHIPPED

    if arguments.voice == "mirror":
        return Mirror
    if arguments.voice == "realtime":
        config = RealtimeConfig(
            arguments.voice_url,
            arguments.voice_model,
            arguments.voice_name,
            transcription=arguments.voice_transcription,
        )
        return lambda: Realtime(config)
    config = OfflineConfig(
        arguments.script or SHIPPED,
        arguments.voice_name or OfflineConfig().speaker,
        arguments.whisper,
        arguments.piper,
    )
    check_offline(config)
    return lambda: Offline(config)


def tls_context(arguments: Arguments) -> ssl.SSLContext | None:
    """TLS, where it is wanted.

    Raises:
      InputError: it is needed and not given, or its files cannot be used.
    """
    from tm_jax.serve.limits import is_loopback

    if arguments.tls_certificate is None:
        if not is_loopback(arguments.host) and not arguments.insecure:
            raise InputError(
                f"--host {arguments.host} lets other machines in: give --tls-certificate and --tls-key "
                "(browsers give no microphone without TLS), or --insecure behind a proxy that has TLS."
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(arguments.tls_certificate, arguments.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"{arguments.tls_certificate} and {arguments.tls_key} cannot be used ({error}): give PEM files."
        ) from None
    return context


def listen(arguments: Arguments) -> socket.socket:
    """Takes the port, before anything is loaded.

    Raises:
      InputError: it is not to be had.
    """
    host, port = arguments.host, arguments.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).split(" (")[0]
        raise InputError(
            f"--host {host} and --port {port} cannot be listened at ({reason}): choose others."
        ) from None


def link(arguments: Arguments, port: int, token: str) -> str:
    """What a browser opens: an address that listens everywhere is opened by the machine's name."""
    host = arguments.host
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    scheme = "http" if arguments.tls_certificate is None else "https"
    return f"{scheme}://{host}:{port}/" + (f"#{token}" if token else "")


async def serve(arguments: Arguments) -> None:
    """Serves until SIGINT or SIGTERM, then ends every call."""
    from aiohttp import web

    from tm_jax.serve.capacity import measure
    from tm_jax.serve.engines import load
    from tm_jax.serve.limits import Gate
    from tm_jax.serve.memory import give_back_freed_blocks
    from tm_jax.serve.pictures import portrait
    from tm_jax.serve.server import Server

    give_back_freed_blocks()
    tls, voice, listening = tls_context(arguments), voice_factory(arguments), listen(arguments)
    print("loading and measuring …", flush=True)
    engine = await asyncio.to_thread(load, arguments)
    *picture, notes = await asyncio.to_thread(portrait, arguments.image, engine)
    for note in notes:
        print(note, file=sys.stderr, flush=True)
    found = await asyncio.to_thread(measure, engine, picture[0])
    capacity = arguments.max_calls or found.calls
    server = Server(engine, picture, voice, gate=Gate.made_for(arguments.host), capacity=capacity)
    server.metrics.chunk_time.set(found.chunk_seconds)
    runner = server.runner()
    await runner.setup()
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    try:
        await web.SockSite(runner, listening, ssl_context=tls).start()
        print(f"{found}; {capacity} call{'s' if capacity > 1 else ''} at once")
        print(f"open {link(arguments, listening.getsockname()[1], server.gate.token)}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()
        listening.close()


def main() -> int:
    """Runs the server; returns the exit status."""
    return run("tm_jax.serve", _serve)


def _serve() -> None:
    """Parse, then serve until a signal."""
    arguments = parse(Arguments, prog="python -m tm_jax.serve", description=__doc__)
    asyncio.run(serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
