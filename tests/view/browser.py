"""A real browser for the tests of the atlas: Chromium, and the models of a Bokeh page by their names."""

import asyncio
import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from melano_tf.view.server import address, make_server
from melano_tf.view.settings import ViewSettings

CHECKOUT = Path(__file__).parents[2]
# A model of the page by its name; `view(name)` is what the browser drew of it.
FIND = """
const model = (name) => Bokeh.documents.map((d) => d.get_model_by_name(name)).find((m) => m) || null;
const titled = (title) => { for (const d of Bokeh.documents) for (const m of d._all_models.values())
  if (m.properties.title && m.title === title) return m; return null; };
const view = (m) => Bokeh.index.find_one(m);
"""


class Serving:
    """A server in a process of its own.

    Attributes:
        address: where it begins.
        prefix: the address up to the token's slash.
        process: it.
    """

    def __init__(self, runs: Sequence[Path], *arguments: str) -> None:
        command = [sys.executable, "-m", "melano_tf.run", "view", *map(str, runs), "--no-browser", *arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=CHECKOUT, env=environment
        )
        assert self.process.stdout is not None
        self.shown = ""
        for line in self.process.stdout:
            self.shown += line
            if found := re.search(r"(http://[^/\s]+/[^/\s]+/)(\S*)", line):
                self.prefix, self.address = found[1], found[0]
                return
        raise AssertionError(self.shown)

    def kill(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(runs: Sequence[Path], *arguments: str) -> Iterator[Serving]:
    """A server while the block lasts."""
    server = Serving(runs, *arguments)
    try:
        yield server
    finally:
        server.kill()


class Running:
    """A server in a thread of this process, which is there at once.

    Attributes:
        site: what its pages share.
        root: the address up to the port.
        prefix: the address up to the token's slash.
        address: where it begins.
    """

    def __init__(self, runs: Sequence[Path]) -> None:
        ready, settings = threading.Event(), ViewSettings(tuple(runs), browser=False)

        def serve() -> None:
            asyncio.set_event_loop(asyncio.new_event_loop())
            self.server, self.site = make_server(settings)
            self.server.start()
            self.loop = self.server.io_loop
            self.loop.add_callback(ready.set)
            self.loop.start()

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert ready.wait(20)
        self.root = f"http://127.0.0.1:{self.server.port}"
        self.prefix, self.address = f"{self.root}{self.site.prefix}/", address(settings, self.server, self.site)

    def stop(self) -> None:
        """End it."""
        self.loop.add_callback(self.server.stop)
        self.loop.add_callback(self.loop.stop)
        self.thread.join(10)


class Browser:
    """Chromium without a window."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1280, 900)) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not chromium or not driver:
            pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
        webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install '.[test]'")
        service = pytest.importorskip("selenium.webdriver.chrome.service").Service(driver)
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        arguments = (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        )
        for argument in arguments:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=service)
        device = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)

    def open(self, address: str) -> None:
        """Go to a page and wait until it is drawn."""
        self.driver.get(address)
        self.until(lambda: self.run("return !!(window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle)"))

    def run(self, code: str, *arguments: Any) -> Any:
        """JavaScript in the page."""
        return self.driver.execute_script(FIND + code, *arguments)

    def until(self, holds: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Wait until something holds; returns it."""
        end = time.monotonic() + seconds
        while True:
            try:
                found = holds()
            except Exception:
                if time.monotonic() > end:
                    raise
                found = None
            if found:
                return found
            assert time.monotonic() < end, f"waited {seconds} s in vain; {self.driver.current_url}"
            time.sleep(0.05)

    def click(self, name: str) -> None:
        """Click the button of a name."""
        self.run("view(model(arguments[0])).shadow_el.querySelector('button').click()", name)

    def choose(self, title: str, value: Any) -> None:
        """Set the widget of a title."""
        self.run("titled(arguments[0]).value = arguments[1]", title, value)

    def value(self, title: str) -> Any:
        """What the widget of a title holds."""
        return self.run("return titled(arguments[0]).value", title)

    def table(self, column: str) -> list[Any]:
        """A column of the page's table, as it is filtered."""
        code = """for (const m of Bokeh.documents[0]._all_models.values()) if (m.type === 'DataTable')
            return [...(m.source.data[arguments[0]] || [])]; return [];"""
        return list(self.run(code, column))

    def press(self, key: str) -> None:
        """Press a key on the page."""
        event = "new KeyboardEvent('keydown', {key: arguments[0], bubbles: true, composed: true})"
        self.run(f"document.body.dispatchEvent({event})", key)

    def words(self) -> str:
        """All text of the page, also inside its widgets."""
        code = """
        const all = []; const walk = (n) => { if (n.nodeType === 3) all.push(n.textContent);
          if (n.nodeName === 'STYLE' || n.nodeName === 'SCRIPT') return;
          if (n.shadowRoot) n.shadowRoot.childNodes.forEach(walk);
          n.childNodes.forEach(walk); };
        walk(document.body); return all.join(' ');"""
        return " ".join(str(self.run(code)).split())

    def picture(self, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """What is seen, or what of it lies in a box (left, top, width, height), uint8 (h, w, 3)."""
        given: dict[str, Any] = {"format": "png", "optimizeForSpeed": True}
        if box is not None:
            given["clip"] = {**dict(zip(("x", "y", "width", "height"), box, strict=True)), "scale": 1}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", given)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(taken))).convert("RGB"))

    def frame(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the picture of the slide on the screen."""
        code = """
        const v = view(model('stage')), r = v.canvas_view.el.getBoundingClientRect(), b = v.frame.bbox;
        return [r.left + b.left, r.top + b.top, b.width, b.height];"""
        return tuple(round(part) for part in self.run(code))  # type: ignore[return-value]

    def painted(self) -> None:
        """Wait until what was changed is on the screen."""
        frames = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        self.driver.execute_async_script(frames)

    def faults(self) -> list[str]:
        """What the browser complained of."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def quit(self) -> None:
        """End it."""
        self.driver.quit()
