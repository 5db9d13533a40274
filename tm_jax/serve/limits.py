"""What the outside may do: tokens, origins, sizes, and how many callers there may be."""

import asyncio
import dataclasses
import hmac
import ipaddress
import logging
import re
import secrets
import time

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

MOST_PICTURE_BYTES = 8 * 2**20
MOST_PICTURE_PIXELS = 40_000_000
MOST_OFFER_BYTES = 64 * 2**10
MOST_MESSAGE_BYTES = 2**10
MOST_MESSAGES_A_SECOND = 20
MOST_REQUESTS_A_SECOND = 20
MOST_PICTURES_WAITING = 4
"""Pictures that wait to be decoded; one is at a time."""
MOST_CANDIDATES = 64
"""Addresses in an offer: each is tried."""
BODY_SECONDS = 10.0
"""In which a request's body must have come."""
IDLE_SECONDS = 15.0
"""After which a connection without a whole request is closed."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True)
class Gate:
    """Who may come in."""

    token: str = ""
    """Secret that every request but the page's own files must bring; empty for none."""
    hosts: tuple[str, ...] = ()
    """Host names under which the server answers; a request under another (DNS rebinding) is refused."""

    @classmethod
    def made_for(cls, host: str, names: tuple[str, ...] = ()) -> "Gate":
        """Loopback needs no token and answers to its own names alone; anything else gets a fresh token."""
        if is_loopback(host):
            return cls("", ("localhost", "127.0.0.1", "[::1]", *names))
        return cls(secrets.token_urlsafe(24), names)

    def check(self, request: web.Request, *, token: bool) -> None:
        """Refuse a request of another origin, under another name, or without the token.

        Args:
          token: whether it needs the token at all.

        Raises:
          web.HTTPException: 403 or 401.
        """
        host = request.host
        if self.hosts and _name(host) not in self.hosts:
            raise web.HTTPForbidden(text="This server does not answer under that name.")
        origin = request.headers.get("Origin")
        if origin is not None and origin.split("://", 1)[-1] != host:
            raise web.HTTPForbidden(text="Requests from other pages are refused.")
        if token and self.token:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise web.HTTPUnauthorized(text="Open the link with its token, as the server printed it.")


def _name(host: str) -> str:
    """A Host header without its port; empty where it is none."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:/@\s]+)(:\d{1,5})?", host)
    return found[1].lower() if found else ""


def check_offer(sdp: str) -> None:
    """Refuse an offer that would open more than one call needs: a microphone, a picture, a channel.

    Raises:
      web.HTTPException: 400.
    """
    kinds = re.findall(r"^m=(\w+)", sdp, re.MULTILINE)
    if any(kinds.count(kind) > 1 for kind in kinds):
        raise web.HTTPBadRequest(text="An offer has one microphone, one picture and one channel.")
    if sdp.count("a=candidate") > MOST_CANDIDATES:
        raise web.HTTPBadRequest(text=f"The offer names more than {MOST_CANDIDATES} addresses.")


class Rate:
    """So many events a second, no more."""

    def __init__(self, most: int):
        self._most, self._second, self._count = most, 0, 0

    def allow(self) -> bool:
        """Count one; False if it is too many."""
        now = int(time.monotonic())
        if now != self._second:
            self._second, self._count = now, 0
        self._count += 1
        return self._count <= self._most


def faults_of_ours() -> logging.Logger:
    """A log of the server's own faults: requests that are no HTTP are refused and leave no line of theirs."""
    log = logging.getLogger("tm_jax.serve")
    if not log.filters:
        log.addFilter(lambda line: not (line.exc_info and isinstance(line.exc_info[1], HttpProcessingError)))
    return log


async def read_bounded(request: web.Request, most: int, what: str) -> bytes:
    """A request's body.

    Raises:
      web.HTTPException: 413 where it is larger than allowed, before it is read; 415 where it is compressed;
        408 where it does not come.
    """
    if "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType(text="Compressed requests are refused.")
    sentence = f"The {what} is larger than {most // 2**10} KiB."
    if request.content_length is not None and request.content_length > most:
        raise web.HTTPRequestEntityTooLarge(most, request.content_length, text=sentence)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.content.iter_chunked(2**16):
                body += piece
                if len(body) > most:
                    raise web.HTTPRequestEntityTooLarge(most, len(body), text=sentence)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"The {what} did not come in {BODY_SECONDS:.0f} s.") from None
    except ClientPayloadError:
        raise web.HTTPBadRequest(text=f"The {what} is not whole.") from None
    return bytes(body)
