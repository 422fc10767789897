"""A real browser: headless Chromium, asked over its debugging protocol.

Opening a page, what its console says, what it requests, running a line of script in it, pictures of it.
"""

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from tornado.websocket import websocket_connect

from processes import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """A page that is open, on a connection to its browser."""

    def __init__(self, loop, socket, port):
        self._loop, self._socket, self._port, self._last = loop, socket, port, 0
        self.events = []

    @contextmanager
    def another(self):
        """Give a blank page in another tab."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        url = f"ws://127.0.0.1:{self._port}/devtools/page/{target}"
        socket = self._loop.run_until_complete(_connect(url))
        yield Page(self._loop, socket, self._port)
        self._loop.run_until_complete(_closed(socket))

    def ask(self, method, **parameters):
        """Send a command and return its result; what happens meanwhile is in `events`."""
        return self._loop.run_until_complete(self._ask(method, parameters))

    async def _ask(self, method, parameters):
        self._last += 1
        await self._socket.write_message(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = await asyncio.wait_for(self._socket.read_message(), PATIENCE_S)
            said = json.loads(message)
            if said.get("id") == self._last:
                assert "error" not in said, said
                return said["result"]
            self.events.append(said)

    def open(self, url):
        """Go to a URL and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        seen = len(self.named("Page.loadEventFired"))
        self.ask("Page.navigate", url=url)
        while len(self.named("Page.loadEventFired")) == seen:
            self.run("0")

    def run(self, script):
        """Return the value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, modifiers=0):
        """Press a key of the keyboard, named as the page's events name it; `modifiers`: 2 for Ctrl, 8 for Shift."""
        code = {"Enter": 13, "Escape": 27, "Backspace": 8, "Tab": 9, "Home": 36, "End": 35}.get(key, 0)
        code = code or {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}.get(key, 0)
        text = key if len(key) == 1 and not modifiers & 2 else "\r" if key == "Enter" else ""
        how = {
            "key": key,
            "windowsVirtualKeyCode": code or (ord(key.upper()) if key.isalnum() else 0),
            "modifiers": modifiers,
        }
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **how)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **how)

    def write(self, text):
        """Type text where the focus is."""
        for letter in text:
            self.press(letter)

    def wait_for(self, expression):
        """Wait until an expression is true in the page, and return its value."""
        end = time.monotonic() + PATIENCE_S
        while not (value := self.run(expression)):
            assert time.monotonic() < end, expression
            time.sleep(0.01)
        return value

    def download(self, folder, key):
        """Download a file to a folder by a key, and wait until all of it is there: at first there is an empty one."""
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)
        seen, end = self._n_downloaded(), time.monotonic() + PATIENCE_S
        self.press(key)
        while self._n_downloaded() == seen:
            assert time.monotonic() < end, "nothing is downloaded"
            self.run("0")

    def _n_downloaded(self):
        return [event["state"] for event in self.named("Browser.downloadProgress")].count("completed")

    def named(self, method):
        """Return the parameters of all events of a kind."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def complaints(self):
        """Return what the console and the browser complained of."""
        console = [e for e in self.named("Runtime.consoleAPICalled") if e["type"] in ("error", "warning", "assert")]
        return console + self.named("Runtime.exceptionThrown") + self.named("Log.entryAdded")

    def requests(self):
        """Return the URLs that were asked for, but for what stands in the page itself."""
        asked = [event["request"]["url"] for event in self.named("Network.requestWillBeSent")]
        return [url for url in asked if not url.startswith("data:")]

    def size(self, width, height):
        """Make the window of a size in pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def emulate(self, *, dark=False, media=""):
        """Show the page as in dark mode, or as printed."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=scheme)

    def picture(self):
        """Return the whole page as the bytes of a PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])


@contextmanager
def browser():
    """Start the browser, give a blank page of it, and end it."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        said = f"a browser is needed: one of {', '.join(NAMES)}"
        assert "LABELSIEVE_CI" not in os.environ, said
        pytest.skip(said)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={home}", "about:blank"]
        errors = Path(home, "stderr")
        with errors.open("wb") as file:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(_answering(process, errors))
            port = re.search(rb"ws://127\.0\.0\.1:(\d+)/", errors.read_bytes()).group(1).decode()
            socket = loop.run_until_complete(_connected(port))
            yield Page(loop, socket, port)
            loop.run_until_complete(_closed(socket))
        finally:
            process.kill()
            process.wait()
            loop.close()


async def _answering(process, errors):
    while b"DevTools listening" not in errors.read_bytes():
        assert process.poll() is None, errors.read_text(errors="replace")
        await asyncio.sleep(0.05)


async def _closed(socket):
    socket.close()
    while await socket.read_message() is not None:
        pass


async def _connected(port):
    """Return a connection to the first page of the browser."""
    from tornado.httpclient import AsyncHTTPClient

    while True:
        answer = await AsyncHTTPClient().fetch(
            f"http://127.0.0.1:{port}/json", connect_timeout=PATIENCE_S, request_timeout=PATIENCE_S
        )
        pages = [target for target in json.loads(answer.body) if target["type"] == "page"]
        if pages:
            return await _connect(pages[0]["webSocketDebuggerUrl"])
        await asyncio.sleep(0.05)


async def _connect(url):
    return await websocket_connect(url, connect_timeout=PATIENCE_S, max_message_size=1 << 28)
