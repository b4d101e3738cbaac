"""Headless Chromium through the WebDriver protocol, for tests of pages."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-quic", "--disable-component-update", "--disable-sync", "--hide-scrollbars", "about:blank"),
)


class Browser:
    """One session of Chromium."""

    def __init__(self, url: str, profile: Path) -> None:
        self._http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        chrome = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": chrome, "goog:loggingPrefs": logs}
        answer = self._http.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
        assert "sessionId" in answer, answer
        self._session = f"/session/{answer['sessionId']}"

    def _post(self, name: str, **values: Any) -> Any:
        answer = self._http.post(f"{self._session}/{name}", json=values).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, url: str) -> None:
        self._post("url", url=url)

    def run(self, script: str, *args: Any) -> Any:
        return self._post("execute/sync", script=script, args=list(args))

    def run_async(self, script: str) -> Any:
        return self._post("execute/async", script=script, args=[])

    def cdp(self, name: str, **params: Any) -> Any:
        return self._post("goog/cdp/execute", cmd=name, params=params)

    def resize(self, width: int, height: int, *, scheme: str = "light") -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def console(self) -> list[str]:
        return [entry["message"] for entry in self._post("se/log", type="browser")]

    def requests(self) -> list[str]:
        """Return the addresses that the page has asked for since the last call, without those of embedded data."""
        events = [json.loads(entry["message"])["message"] for entry in self._post("se/log", type="performance")]
        asked = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in asked]
        return [url for url in urls if not url.startswith(("data:", "chrome:", "about:"))]

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        found = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        self._http.delete(self._session)
        self._http.close()


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start the driver and a browser with a fresh profile; both end with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert DRIVER, "skip a test where there is no driver"
    process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port)
        opened = Browser(f"http://127.0.0.1:{port}", profile)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        process.terminate()
        process.wait(20)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError("chromedriver does not listen")
