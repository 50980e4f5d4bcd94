"""What all pages of one server share, and what one page knows of the request that opened it."""

import json
import logging
import urllib.parse
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from bokeh.document import Document
from bokeh.events import DocumentReady
from bokeh.model import Model
from bokeh.models import Column, CustomJS, Div, TextInput
from bokeh.models.ui import UIElement

from melano_tf.errors import InputError
from melano_tf.view import page_style
from melano_tf.view.asked_models import Models
from melano_tf.view.deepzoom import ByteCache, OpenSlides
from melano_tf.view.embedding import has_embedding
from melano_tf.view.overlays import Masks
from melano_tf.view.run_cases import Runs, Seen

WORKERS = 2  # of pictures, and of what is done aside
FOOTER = "Research only, not a medical device. Served by this machine; nothing is fetched from elsewhere."
logger = logging.getLogger(__name__)


@dataclass
class Site:
    """What the pages and handlers of a server share.

    Attributes:
        runs: the runs that were named.
        prefix: "/<token>", under which everything lies.
        cache: tiles and pictures that were cut.
        slides: open slides of each thread.
        masks: tissue masks of the slides that were looked at last.
        networks: those that were asked last.
        tiles_pool: where a slide's deep-zoom tiles are cut, so that they wait for no small picture of the page before.
        pool: where other pictures are made, so that the server goes on answering.
        aside: where pages have slow work done, which no picture waits for.
        models: where models are asked, one question at a time; TensorFlow is first loaded there.
    """

    runs: Runs
    prefix: str
    cache: ByteCache
    slides: OpenSlides = field(default_factory=OpenSlides)
    masks: Masks = field(default_factory=Masks)
    networks: Models = field(default_factory=Models)
    tiles_pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WORKERS, "tiles"))
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WORKERS, "atlas"))
    aside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WORKERS, "aside"))
    models: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "models"))

    def __post_init__(self) -> None:
        self._begun: dict[Hashable, Future[bytes | None]] = {}

    def begin(
        self, key: Hashable, make: Callable[[], bytes | None], pool: ThreadPoolExecutor | None = None
    ) -> "Future[bytes | None]":
        """Begin to make a picture aside, in `pool` or another one, and keep it; asked for again meanwhile it is made
        once."""
        begun = self._begun.get(key)
        if begun is None:

            def work() -> bytes | None:
                content = self.cache.get(key) or make()
                if content is not None:
                    self.cache.put(key, content)
                return content

            begun = self._begun[key] = (pool or self.pool).submit(work)
            begun.add_done_callback(lambda _: self._begun.pop(key, None))
        return begun

    def href(self, page: str, **arguments: Any) -> str:
        """The address of a page; arguments that are None are left out."""
        given = {name: value for name, value in arguments.items() if value is not None}
        return f"{self.prefix}/{page}" + ("?" + urllib.parse.urlencode(given) if given else "")

    # A run that is made anew has other cases under the same numbers; neither the browser, which keeps pictures for a
    # while, nor a page of before may take the one's for the other's.

    def tiles(self, run: Seen, case: int) -> str:
        """The address of a slide's tiles, with {Z}, {X} and {Y} to be filled in."""
        return f"{self.prefix}/tile/{run.number}/{case}/{{Z}}/{{X}}/{{Y}}.jpg?of={run.stamp}"

    def overview(self, run: Seen, case: int) -> str:
        """The address of a slide's small picture."""
        return f"{self.prefix}/overview/{run.number}/{case}.jpg?of={run.stamp}"

    def cutout(self, run: Seen, case: int, box: Sequence[int]) -> str:
        """The address of a tile's picture, cut from its slide; box: x, y, width, height in level-0 px."""
        place = f"{max(0, box[0])}/{max(0, box[1])}/{box[2]}"
        return f"{self.prefix}/cutout/{run.number}/{case}/{place}.jpg?of={run.stamp}"

    def picture(self, run: Seen, size: Literal["large", "thumb"], case: int | str) -> str:
        """The address of an image; case: its number, or what a template has in its place."""
        return f"{self.prefix}/picture/{run.number}/{size}/{case}.jpg?of={run.stamp}"


@dataclass(frozen=True)
class FirstPicture:
    """A slide's tiles as a page shows them before Bokeh does, and where Bokeh will.

    Attributes:
        box: left, top, width and least height of the window, level-0 px.
        tiles: address of each tile, and x, y and side, level-0 px.
        label: for a screen reader.
    """

    box: tuple[float, float, float, float]
    tiles: Sequence[tuple[str, float, float, float]]
    label: str


class Page:
    """One page in one browser: its document, the arguments in its address, and the site.

    Attributes:
        heard: what keys and buttons inside HTML say, "word|count".
        first: the picture that the browser shows while it reads the page's scripts.
    """

    def __init__(self, site: Site, doc: Document) -> None:
        self.site, self.doc = site, doc
        request = doc.session_context.request if doc.session_context else None
        self.arguments: dict[str, list[bytes]] = dict(request.arguments) if request else {}
        self.cookies: dict[str, str] = dict(request.cookies) if request else {}
        self.dark = self.cookies.get("shade") == "dark"
        self.heard = TextInput(name="heard", visible=False)
        self.first: FirstPicture | None = None
        self._listeners: dict[str, Callable[[str], object]] = {}
        self.heard.on_change("value", self._listen)

    def word(self, name: str, default: str = "") -> str:
        """An argument of the address."""
        values = self.arguments.get(name) or [default.encode()]
        return values[0].decode("utf-8", "replace")

    def number(self, name: str, default: float | None = None) -> float | None:
        """An argument that is a finite number, else the default."""
        try:
            value = float(self.word(name))
        except ValueError:
            return default
        return value if abs(value) < 1e12 else default

    def run(self) -> Seen:
        """The run that the address names.

        Raises:
            InputError: there is none.
        """
        return self.site.runs.get(int(self.number("run", 0) or 0))

    def case(self, run: Seen) -> int:
        """The case that the address names.

        Raises:
            InputError: there is none.
        """
        place = int(self.number("case", 0) or 0)
        if not 0 <= place < len(run.cases):
            raise InputError(f"{run.name} has no case {place}; it has {len(run.cases)}")
        return place

    def hear(self, word: str, then: Callable[[str], object]) -> None:
        """Do something when a button inside HTML says a word ("fly:1,2"): what stands behind the colon is handed on."""
        self._listeners[word] = then

    def key(self, letter: str, then: Callable[[], object]) -> None:
        """Do something when a key is pressed, unless somebody is typing."""
        self._listeners[f"key:{letter}"] = lambda _: then()

    def _listen(self, name: str, old: str, new: str) -> None:
        word = new.rpartition("|")[0]
        kind, _, rest = word.partition(":")
        if word in self._listeners:
            self._listeners[word](rest)
        elif kind in self._listeners:
            self._listeners[kind](rest)

    def remember(self, **widgets: Model) -> None:
        """Write what is chosen in widgets into the address, under these names, so that it can be sent."""
        for name, widget in widgets.items():
            kept = CustomJS(args={"name": name}, code="atlas.remember({[name]: atlas.chosen(cb_obj)})")
            for choice in ("active", "value"):
                if choice in widget.properties():
                    widget.js_on_change(choice, kept)

    def later(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[str], None],
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        """Do slow work aside, or in another pool, and then show what came of it."""

        def finish(future: "Future[Any]") -> None:
            self.doc.add_next_tick_callback(partial(show, future))

        def show(future: "Future[Any]") -> None:
            try:
                result = future.result()
            except Exception as error:  # a page says what went wrong, and lives on
                logger.debug("aside", exc_info=error)
                failed(first_line(error))
                return
            done(result)

        (pool or self.site.aside).submit(work).add_done_callback(finish)

    def show(self, title: str, *roots: UIElement, run: Seen | None = None, here: str = "", **keys: str | None) -> None:
        """Set the page up: its frame, links and contents.

        Args:
            title: of the window.
            roots: what it shows.
            run: whose pages the links lead to.
            here: the page that this is.
            keys: address that a key leads to, by key.
        """
        site = self.site
        links = [{"words": "all runs", "href": site.href(""), "here": here == "all runs"}]
        if run is not None:
            for page, words in pages_of(run):
                links.append({"words": words, "href": site.href(page, run=run.number), "here": here == page})
        wanted = {key: address for key, address in keys.items() if address}
        self.doc.title = f"{title} – melano_tf"
        self.doc.theme = page_style.theme(self.dark)
        self.doc.template = page_style.FRAME
        self.doc.template_variables.update(
            heading="melano_tf" if run is None else run.name,
            links=links,
            css=page_style.CSS,
            script=page_style.SCRIPT,
            keys=json.dumps(wanted).replace("</", "<\\/"),
            footer=FOOTER,
            first=self.first,
            scripts=page_style.scripts(site.prefix, roots),
        )
        self.doc.js_on_event(DocumentReady, CustomJS(code="atlas.named()"))
        self.doc.add_root(Column(*roots, self.heard, sizing_mode="stretch_width"))


def pages_of(run: Seen) -> list[tuple[str, str]]:
    """The pages that a run has: (address, words)."""
    pages = [("cases", "cases")]
    if run.models:
        pages.append(("curves", "errors and curves"))
    if has_embedding(run):
        pages.append(("map", "map of the images"))
    return [*pages, ("blind", "blind reading")]


def on_change(model: Model, name: str, then: Callable[[], object]) -> None:
    """Do something when a property of a model changes."""

    def changed(attribute: str, old: Any, new: Any) -> None:
        then()

    model.on_change(name, changed)


def first_line(error: BaseException) -> str:
    """One line for a person."""
    return (str(error) or type(error).__name__).split("\n")[0][:300]


def app(site: Site, build: Callable[[Page], None]) -> Callable[[Document], None]:
    """A Bokeh application of one page; what cannot be shown is said in its place."""

    def make(doc: Document) -> None:
        page = Page(site, doc)
        try:
            build(page)
        except InputError as error:
            doc.clear()
            page = Page(site, doc)
            words = "<br>".join(page_style.text(line) for line in str(error).split("\n"))
            page.show("not there", Div(text=f'<h2>This cannot be shown</h2><p role="alert">{words}</p>'))

    return make
