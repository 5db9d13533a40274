"""A headless Chromium that takes part in a call: driven through its own debugging protocol, with a recording
for its microphone."""

import asyncio
import base64
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

from tm_jax.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """One page; use it as an async context."""

    def __init__(self, address: str, microphone: Path | None = None, size: tuple[int, int] = (900, 800)):
        """Finds the program.

        Args:
          microphone: a 16-bit wav file that is heard once, from when the page asks for a microphone; None
            refuses it.

        Raises:
          InputError: there is none.
        """
        self._program = next(filter(None, map(shutil.which, NAMES)), None)
        if self._program is None:
            raise InputError("There is no Chromium here: install one (apt-get install chromium).")
        self.address, self._microphone, self._window = address, microphone, size
        self._count, self._answers = 0, {}

    async def __aenter__(self) -> "Browser":
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--mute-audio",
            "--autoplay-policy=no-user-gesture-required",
            "--allow-loopback-in-peer-connection",
            "--disable-features=WebRtcHideLocalIpsWithMdns",
            "--remote-debugging-port=0",
            f"--window-size={self._window[0]},{self._window[1]}",
            f"--user-data-dir={self._folder.name}",
        ]
        if self._microphone is not None:
            flags += [
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={self._microphone}%noloop",
            ]
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *flags,
            self.address,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._http = aiohttp.ClientSession()
        port = await self._port()
        self._socket = await self._http.ws_connect(await self._page(port), max_msg_size=2**28)
        self._reading = asyncio.create_task(self._read())
        return self

    async def _port(self) -> int:
        path = Path(self._folder.name) / "DevToolsActivePort"
        for _ in range(600):
            if path.exists() and (text := path.read_text("utf-8")):
                return int(text.split()[0])
            await asyncio.sleep(0.1)
        raise InputError("Chromium did not start.")

    async def _page(self, port: int) -> str:
        for _ in range(300):
            async with self._http.get(f"http://127.0.0.1:{port}/json") as response:
                for target in await response.json():
                    if target["type"] == "page" and target["url"].startswith(self.address.split("#")[0]):
                        return target["webSocketDebuggerUrl"]
            await asyncio.sleep(0.1)
        raise InputError(f"The browser did not open {self.address}.")

    async def _read(self) -> None:
        async for message in self._socket:
            fields = json.loads(message.data)
            waiting = self._answers.pop(fields.get("id"), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(fields)

    async def _ask(self, method: str, **parameters: Any) -> dict:
        self._count += 1
        waiting = self._answers[self._count] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        return (await asyncio.wait_for(waiting, 60.0)).get("result", {})

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited.

        Raises:
          RuntimeError: it threw.
        """
        answer = await self._ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", script))
        return answer.get("result", {}).get("value")

    async def until(self, script: str, seconds: float = 30.0) -> Any:
        """Waits until an expression is true, and returns it.

        Raises:
          TimeoutError: it never was.
        """
        for _ in range(int(seconds * 20)):
            if value := await self.run(script):
                return value
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{script} was never true")

    async def press(self, name: str) -> None:
        """Clicks the element of that name once the page and its scripts are there."""
        element = f"document.getElementById('{name}')"
        await self.until(f"document.readyState === 'complete' && Boolean({element})", 60.0)
        await self.run(f"{element}.click()")

    async def screenshot(self, path: Path, *, dark: bool = False) -> None:
        """What the page shows, as a PNG."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self._ask("Emulation.setEmulatedMedia", features=features)
        picture = await self._ask("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))

    async def __aexit__(self, *_) -> None:
        self._reading.cancel()
        await self._socket.close()
        await self._http.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._folder.cleanup()
