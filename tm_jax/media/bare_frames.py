"""The heads of mp3, AAC, AC-3 and AMR frames, which stand one after another without a container."""


def frame_size(head: bytes) -> int:
    """Bytes of the frame that these first 7 bytes begin; 0 where none begins or it does not say."""
    return _adts(head) or _mpeg(head) or _ac3(head)


def amr_frame(head: int) -> bool:
    """Whether an AMR frame may begin with this byte: its first bit and its last two are zero."""
    return not head & 0x83


def _adts(head: bytes) -> int:
    """Bytes of an AAC frame; 0 where none begins."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of MPEG-1's layers III, II and I, and of MPEG-2's layers II and III."""


def _mpeg(head: bytes) -> int:
    """Bytes of an MPEG audio frame; 0 where none begins."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return 0
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return 0
    hertz = (44_100, 48_000, 32_000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    if layer == 1:
        kbits = _KBITS[1][bits] if version == 3 else 0
        return (12_000 * kbits // hertz + (head[2] >> 1 & 1)) * 4
    kbits = _KBITS[{3: 3, 2: 2}[layer] if version == 3 else 0][bits]
    samples = 144_000 if version == 3 or layer == 2 else 72_000
    return samples * kbits // hertz + (head[2] >> 1 & 1)


_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def _ac3(head: bytes) -> int:
    """Bytes of an AC-3 frame; 0 where none begins, as with E-AC-3."""
    if len(head) < 6 or head[:2] != b"\x0b\x77" or head[5] >> 3 > 8:
        return 0
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code >= 2 * len(_AC3_KBITS):
        return 0
    kbits = _AC3_KBITS[code // 2]
    return (4 * kbits, 2 * (kbits * 96_000 // 44_100 + code % 2), 6 * kbits)[rate]
