"""The pages, a module each."""

from collections.abc import Mapping
from importlib import import_module

from melano_tf.view.site import Page

PAGES: Mapping[str, str] = {
    "/": "index",
    "/cases": "cases",
    "/slide": "slide",
    "/image": "image",
    "/curves": "curves",
    "/map": "embedding_map",
    "/blind": "blind",
}
"""Every page by its address: a module here, and a function in it of the same name."""


def build(name: str, page: Page) -> None:
    """Build a page.

    Its module is imported when it is first opened: what draws curves is no part of the memory that slides take.

    Raises:
        InputError: the page cannot be shown.
    """
    if name == "cases":
        name = "slides" if page.run().judges == "slides" else "gallery"
    getattr(import_module(f"{__name__}.{name}"), name)(page)
