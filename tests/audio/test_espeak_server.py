"""The process that speaks: Ctrl-C in a terminal reaches it too, and it ends when nobody asks any more."""

import json
import signal
import subprocess
import sys

from tm_jax.audio import espeak_server

REQUEST = json.dumps({"text": "hello", "voice": "en-us", "rate": 175, "pitch": 50}).encode() + b"\n"


def test_it_lives_through_ctrl_c_and_ends_with_its_input():
    server = subprocess.Popen(
        [sys.executable, espeak_server.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for _ in range(2):
        server.stdin.write(REQUEST)
        server.stdin.flush()
        header = json.loads(server.stdout.readline())
        assert len(server.stdout.read(2 * header["samples"])) == 2 * header["samples"] > 0
        server.send_signal(signal.SIGINT)
    server.stdin.close()
    assert server.wait(timeout=30) == 0 and server.stderr.read() == b""


def test_it_says_nothing_where_nobody_listens():
    server = subprocess.Popen(
        [sys.executable, espeak_server.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    server.stdout.close()
    _, told = server.communicate(REQUEST, timeout=30)
    assert server.returncode == 0 and told == b""
