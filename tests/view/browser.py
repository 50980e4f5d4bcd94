"""A real browser for the tests of the atlas: Chromium, and the models of a Bokeh page by their names."""

import asyncio
import base64
import io
import logging
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from melano_tf.view.server import address, make_server
from melano_tf.view.settings import ViewSettings
from tests import forked

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
    """

    def __init__(self, runs: Sequence[Path], *arguments: str) -> None:
        self._command = forked.start("view", *map(str, runs), "--no-browser", *arguments, cwd=CHECKOUT)
        found = self._command.until(r"(http://[^/\s]+/[^/\s]+/)(\S*)\s")
        self.prefix, self.address = found[1], found[1] + found[2]

    def kill(self) -> None:
        """End it at once."""
        self._command.process.kill()
        self._command.process.join()


@contextmanager
def serving(runs: Sequence[Path], *arguments: str) -> Iterator[Serving]:
    """A server while the block lasts."""
    server = Serving(runs, *arguments)
    try:
        yield server
    finally:
        server.kill()


class Faults(logging.Handler):
    """What goes wrong in a server of this process."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(self.format(record)[-2000:])


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

        self.faults = Faults(logging.ERROR)
        logging.getLogger().addHandler(self.faults)
        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert ready.wait(20)
        self.root = f"http://127.0.0.1:{self.server.port}"
        self.prefix, self.address = f"{self.root}{self.site.prefix}/", address(settings, self.server, self.site)

    def get(self, path: str) -> tuple[int, bytes, Any]:
        """Status, content and headers of what stands under a path."""
        try:
            with urllib.request.urlopen(self.root + path, timeout=20) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def stop(self, expected: Sequence[str] = ()) -> None:
        """End it; nothing may have gone wrong in it that no page said, but for lines with the expected words."""
        self.loop.add_callback(self.server.stop)
        self.loop.add_callback(self.loop.stop)
        self.thread.join(10)
        logging.getLogger().removeHandler(self.faults)
        faults = [line for line in self.faults.lines if not any(words in line for words in expected)]
        assert not faults, faults


@contextmanager
def running(runs: Sequence[Path]) -> Iterator[Running]:
    """A server in this process while the block lasts."""
    server = Running(runs)
    try:
        yield server
    finally:
        server.stop()


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
        self.run("return view(model(arguments[0])).shadow_el.querySelector('button')", name).click()

    def marked(self, word: str) -> Any:
        """The first button inside HTML that says a word to the page ("fly:")."""
        code = """
        const word = arguments[0];
        const find = (n) => { if (n.dataset && (n.dataset.say || '').startsWith(word)) return n;
          for (const one of [...(n.shadowRoot ? n.shadowRoot.children : []), ...n.children]) {
            const found = find(one); if (found) return found; }
          return null; };
        return find(document.body);"""
        return self.run(code, word)

    def choose(self, title: str, value: Any) -> None:
        """Choose in the widget of a title, as a person does: an option with the mouse, text by typing, a number of a
        slider (whose handle only moves by steps) in the page's model."""
        field = self.run("const m = titled(arguments[0]); return view(m).input_el || null", title)
        kind = field.tag_name if field is not None else ""
        if kind == "select":
            from selenium.webdriver.support.ui import Select

            places = (
                "return titled(arguments[0]).options.findIndex((o) => (Array.isArray(o) ? o[0] : o) === arguments[1])"
            )
            Select(field).select_by_index(self.run(places, title, value))
        elif kind in ("input", "textarea"):
            field.click()
            self._keys().key_down("\ue009").send_keys("a").key_up("\ue009").perform()
            self.driver.execute_cdp_cmd("Input.insertText", {"text": value})
            self._keys().send_keys("\ue004").perform()  # the tab key, which leaves the field
        else:
            self.run("titled(arguments[0]).value = arguments[1]", title, value)

    def _keys(self) -> Any:
        from selenium.webdriver import ActionChains

        return ActionChains(self.driver, duration=0)

    def point(self, name: str, x: Any, y: Any) -> tuple[int, int]:
        """Where a place of a named plot, in the plot's coordinates, is on the screen; scrolled into sight."""
        code = """
        const v = view(model(arguments[0]));
        v.el.scrollIntoView({block: 'nearest'});
        const r = v.canvas_view.el.getBoundingClientRect();
        return [r.left + v.frame.x_scale.compute(arguments[1]), r.top + v.frame.y_scale.compute(arguments[2])];"""
        across, down = self.run(code, name, x, y)
        return round(across), round(down)

    def mouse(self, *path: tuple[int, int], drag: bool = False, click: bool = False) -> None:
        """Move the mouse along points of the screen; with its button down, or with a click at the end."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        moves = ActionBuilder(self.driver, duration=0)
        for place, (x, y) in enumerate(path):
            moves.pointer_action.move_to_location(x, y)
            if drag and place == 0:
                moves.pointer_action.pointer_down()
        if drag:
            moves.pointer_action.pointer_up()
        if click:
            moves.pointer_action.click()
        moves.perform()

    def value(self, title: str) -> Any:
        """What the widget of a title holds."""
        return self.run("return titled(arguments[0]).value", title)

    def table(self, column: str) -> list[Any]:
        """A column of the page's table, as it is filtered."""
        code = """for (const m of Bokeh.documents[0]._all_models.values()) if (m.type === 'DataTable')
            return [...(m.source.data[arguments[0]] || [])]; return [];"""
        return list(self.run(code, column))

    def press(self, key: str) -> None:
        """Press a key on the page, outside of every field."""
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, "header .name").click()
        self._keys().send_keys(key).perform()

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

    def settled(self) -> None:
        """Wait until the picture of the slide keeps its place: its legend comes later, and takes some of it."""

        def stands() -> bool:
            before = self.frame()
            time.sleep(0.2)
            self.painted()
            return self.frame() == before

        self.until(stands)

    def painted(self) -> None:
        """Wait until what was changed is on the screen."""
        frames = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        self.driver.execute_async_script(frames)

    def faults(self, address: str) -> list[str]:
        """What the browser complained of in pages of the server with this address, and not of one that is gone."""
        origin = "/".join(address.split("/")[:3]) + "/"
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in said if message.startswith(origin)]

    def quit(self) -> None:
        """End it."""
        self.driver.quit()
