"""Freed memory goes back to the system, whatever was freed before."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
from tm_jax.serve.memory import give_back_freed_blocks
if {fixed}:
    assert give_back_freed_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena free fast mapped rest r2 r3 r4 r5 r6".split()]

libc.mallinfo2.restype = Info
libc.free(libc.malloc(8 * 2**20))
before = libc.mallinfo2().mapped
libc.malloc(2**20)
print(libc.mallinfo2().mapped - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize("fixed", [True, False])
def test_blocks_are_mapped_one_by_one_also_after_a_large_one_was_freed(fixed):
    """Without the fixed limit the second block lies on the heap: this is what made the server grow."""
    run = subprocess.run([sys.executable, "-c", SCRIPT.format(fixed=fixed)], capture_output=True, text=True)
    assert run.stdout.strip() == str(int(fixed)), run.stderr
