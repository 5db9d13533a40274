"""How this process gives freed memory back.

Every call allocates and frees buffers of some hundred kilobytes (frames, codecs, network outputs) from many
threads.  glibc gives blocks of 128 KiB and more back to the system as soon as they are freed; but each such
block raises that limit to its own size, up to 32 MiB.  From then on such blocks lie on the heap between small
ones that live longer, and the heap grows with every call though nothing is kept: 200 calls left 240 MiB that
nobody used.  A limit that is set stays.
"""

import ctypes
import sys

MAPPED_FROM = 128 * 2**10
"""Bytes from which on a block is given back when it is freed."""
_M_MMAP_THRESHOLD = -3


def give_back_freed_blocks() -> bool:
    """Fixes glibc's limit for the whole process; False where the C library is another one."""
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM))
    except AttributeError:
        return False
