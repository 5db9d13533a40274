"""What the outside may try: requests that a server of calls must refuse, each with the statuses that do.

Bytes go through a bare socket, so that no client's library mends them.  Status 0 is a connection that is
closed without an answer, which is all that an unfinished request gets.
"""

import dataclasses
import io
import json
import struct
import zlib

from PIL import Image

from tm_jax.serve import limits


@dataclasses.dataclass(frozen=True)
class Request:
    """One request and what may answer it."""

    name: str
    data: bytes
    statuses: tuple[int, ...]


def request(method: str, path: str, body: bytes = b"", host: str = "127.0.0.1", **headers: str) -> bytes:
    """A request as it goes over the wire; underscores in names of headers are dashes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if (body or method == "POST") and "Transfer-Encoding" not in given:
        given.setdefault("Content-Length", str(len(body)))
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post(path: str, body: bytes = b"", **more: str) -> bytes:
    return request("POST", path, body, **more)


def offer(**fields) -> bytes:
    return post("/offer", json.dumps({"type": "offer", "sdp": ""} | fields).encode())


def png(width: int, height: int, form: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(data, form)
    return data.getvalue()


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims a size and holds what it is given."""
    every = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in every:
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data


PATHS = (
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/%c0%ae%c0%ae/etc/passwd",
    "/..\\..\\windows\\win.ini",
    "//etc/passwd",
    "/app.js/../../server.py",
    "/app.js/..%2f..%2fserver.py",
    "/app.js%00.png",
    "/portrait.png/../../../etc/passwd",
    "/page/index.html",
    "/tm_jax/serve/server.py",
    "/.git/config",
    "/.env",
    "/%",
    "/file:///etc/passwd",
    "/" + "a/" * 3000,
)
METHODS = (
    ("PUT", "/picture"),
    ("DELETE", "/hangup"),
    ("PATCH", "/offer"),
    ("OPTIONS", "/offer"),
    ("TRACE", "/"),
    ("POST", "/"),
    ("POST", "/metrics"),
    ("GET", "/offer"),
    ("GET", "/picture"),
    ("GET", "/hangup"),
    ("PROPFIND", "/"),
)
ORIGINS = (
    "http://evil.example",
    "https://evil.example",
    "null",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.1:1",
    "http://localhost",
    "file://",
)
HOSTS = (
    "rebound.example",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "evil.example:80@127.0.0.1",
    "localhost.",
    "[::2]",
    "127.0.0.2",
    "",
    "127.0.0.1 evil.example",
)
PICTURES = {
    "no picture": b"not a picture",
    "nothing": b"",
    "a truncated PNG": png(300, 200)[:200],
    "a truncated JPEG": png(300, 200, "JPEG")[:300],
    "a PNG of 60 megapixels": png(20_000, 3_000),
    "a PNG that claims 4 billion pixels": png_of(65_000, 65_000, (b"IDAT", zlib.compress(b"\0" * 1000))),
    "a PNG whose pixels are garbage": png_of(300, 200, (b"IDAT", b"garbage" * 30)),
    "a PNG whose text unpacks to 60 MiB": png_of(
        300, 200, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 60 * 2**20)), (b"IDAT", zlib.compress(b"\0" * 9))
    ),
    "a PNG of one pixel": png(1, 1),
    "a picture of one row": png(9000, 1),
    "a GIF that claims 4 billion pixels": b"GIF89a"
    + struct.pack("<HH", 65535, 65535)
    + b"\x80\0\0"
    + b"\0" * 99,
    "a BMP that claims a billion pixels": b"BM"
    + struct.pack("<IHHIIiiHHI", 99, 0, 0, 54, 40, 2**15, 2**15, 1, 24, 0),
    "a program that draws": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) run\n",
    "an SVG with a file in it": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "a PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "a page": b"<!doctype html><script>alert(1)</script>",
    "an archive": b"PK\x03\x04" + b"\0" * 200,
    "a TIFF without end": b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65535) + b"\xff" * 400,
    "a WebP that is cut": b"RIFF" + struct.pack("<I", 10**6) + b"WEBPVP8 " + b"\0" * 40,
}
OFFERS = {
    "nothing": b"",
    "no text": b"\xff\xfe{",
    "brackets": b"[" * 60_000,
    "a list": b'["offer"]',
    "a number": b"7",
    "null": b"null",
    "no fields": b"{}",
    "half of it": b'{"type": "offer", "sdp": "v=0',
    "an answer": b'{"type": "answer", "sdp": ""}',
    "a rollback": b'{"type": "rollback", "sdp": ""}',
    "a type that is a list": b'{"type": ["offer"], "sdp": ""}',
    "digits": b'{"type": "offer", "sdp": ' + b"9" * 5000 + b"}",
}
HEAD = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
LINE = "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n"
FULL = LINE + (
    "a=sendrecv\r\na=rtcp-mux\r\na=rtpmap:96 opus/48000/2\r\na=ice-ufrag:abcd\r\n"
    "a=ice-pwd:0123456789012345678901\r\na=setup:actpass\r\na=fingerprint:sha-256 "
    + ":".join(["AB"] * 32)
    + "\r\n"
)
SDPS = {
    "nothing": "",
    "a head alone": HEAD,
    "a line that is cut": "v=0\r\nm=audio",
    "zeros": "\0" * 1000,
    "prose": "let me in",
    "no codec": HEAD + "m=audio 9 UDP/TLS/RTP/SAVPF\r\n",
    "a port that is no number": HEAD + FULL.replace(" 9 ", " nine "),
    "a codec that nobody knows": HEAD + FULL.replace("opus/48000/2", "nothing/1"),
    "no microphone": HEAD + FULL.replace("audio", "video").replace("opus/48000/2", "VP8/90000"),
    "no key": HEAD + FULL.split("a=fingerprint")[0],
    "a key of another form": HEAD + FULL.replace("sha-256", "md-nothing"),
    "no password": HEAD + FULL.replace("a=ice-pwd:0123456789012345678901\r\n", ""),
    "an address that is none": HEAD + FULL + "a=candidate:x\r\n",
    "two microphones": HEAD + FULL + FULL.replace("mid:0", "mid:1"),
    "a thousand microphones": HEAD + "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\n" * 1000,
    "a thousand addresses": HEAD
    + FULL
    + "".join(f"a=candidate:{n} 1 udp 1 192.0.2.1 {n + 1} typ host\r\n" for n in range(1000)),
    "a line of 60,000 letters": HEAD + "a=" + "x" * 60_000,
}


def requests() -> list[Request]:
    """All of them, for a server on loopback."""
    found = [Request(f"path {path[:40]}", request("GET", path), (404, 400)) for path in PATHS]
    found += [Request(f"{method} {path}", request(method, path), (405,)) for method, path in METHODS]
    for origin in ORIGINS:
        found.append(Request(f"origin {origin}", post("/offer", b"{}", Origin=origin), (403,)))
    for host in HOSTS:
        found.append(Request(f"host {host!r}", request("GET", "/portrait.png", host=host), (403, 400)))
    found += [Request(f"picture: {name}", post("/picture", data), (400,)) for name, data in PICTURES.items()]
    found += [Request(f"offer: {name}", post("/offer", data), (400,)) for name, data in OFFERS.items()]
    found += [Request(f"offer with {name}", offer(sdp=sdp), (400,)) for name, sdp in SDPS.items()]
    chunked = {"Transfer_Encoding": "chunked"}
    large = b"x" * (limits.MOST_PICTURE_BYTES + 1)
    get = request("GET", "/")
    found += [
        Request("a picture of nobody", offer(picture="nobody"), (404,)),
        Request("a picture that is a path", offer(picture="../../etc/passwd"), (404,)),
        Request("a picture too large", post("/picture", large), (413,)),
        Request(
            "a picture that says it is too large", post("/picture", b"x", Content_Length="9" * 12), (413,)
        ),
        Request("a picture too large in pieces", post("/picture", _pieces(large), **chunked), (413,)),
        Request("an offer too large", post("/offer", b"x" * (limits.MOST_OFFER_BYTES + 1)), (413,)),
        Request(
            "a bomb of zeros",
            post("/picture", zlib.compress(b"\0" * 2**24), Content_Encoding="deflate"),
            (415,),
        ),
        Request("hang up nobody", post("/hangup", b"somebody"), (404,)),
        Request("hang up nothing", post("/hangup"), (404,)),
        Request("hang up no text", post("/hangup", b"\xff\xfe"), (404,)),
        Request("hang up at length", post("/hangup", b"x" * 5000), (413,)),
        Request("a WebSocket", get.replace(b"close", b"Upgrade\r\nUpgrade: websocket"), (400,)),
        Request("a WebSocket to calls", request("GET", "/offer", Upgrade="WebSocket"), (400,)),
        Request("bytes", b"\0\1\2\3\r\n\r\n", (400,)),
        Request("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n", (400,)),
        Request("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
        Request("HTTP/9", get.replace(b"HTTP/1.1", b"HTTP/9.9"), (400,)),
        Request("no version", b"GET /offer\r\n\r\n", (400, 405)),
        Request("a header without a colon", get.replace(b"Connection: close", b"nonsense"), (400,)),
        Request("a header with a zero", get.replace(b"close", b"cl\0se"), (400,)),
        Request("a header that is folded", get.replace(b"close", b"close\r\n more: x"), (400,)),
        Request("a header of 20,000 letters", request("GET", "/", X="x" * 20_000), (400, 431)),
        Request("a thousand headers", request("GET", "/", **{f"X{n}": "x" for n in range(1000)}), (400, 431)),
        Request("two lengths", post("/offer", b"{}", Content_Length="2\r\nContent-Length: 9"), (400,)),
        Request("a length and pieces", post("/offer", b"0\r\n\r\n", Content_Length="5", **chunked), (400,)),
        Request("a negative length", post("/offer", b"{}", Content_Length="-5"), (400,)),
        Request("a length in letters", post("/offer", b"{}", Content_Length="five"), (400,)),
        Request("a piece of no size", post("/offer", b"zz\r\n{}\r\n0\r\n\r\n", **chunked), (400,)),
        Request("a coding that nobody knows", post("/offer", b"{}", Transfer_Encoding="nothing"), (400, 501)),
        Request("a body that never comes", post("/offer", b"{", Content_Length="500"), (408,)),
        Request("a head that never ends", get[:-2], (0,)),
        Request("nothing at all", b"", (0,)),
    ]
    return found


def _pieces(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n0\r\n\r\n"
