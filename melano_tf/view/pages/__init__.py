"""The pages, a module each."""

from collections.abc import Callable, Mapping

from melano_tf.view.pages.blind import blind
from melano_tf.view.pages.curves import curves
from melano_tf.view.pages.embedding_map import embedding_map
from melano_tf.view.pages.gallery import gallery
from melano_tf.view.pages.image import image
from melano_tf.view.pages.index import index
from melano_tf.view.pages.slide import slide
from melano_tf.view.pages.slides import slides
from melano_tf.view.site import Page


def cases(page: Page) -> None:
    """The cases of a run: a list of slides, or a gallery of images."""
    (slides if page.run().judges == "slides" else gallery)(page)


PAGES: Mapping[str, Callable[[Page], None]] = {
    "/": index,
    "/cases": cases,
    "/slide": slide,
    "/image": image,
    "/curves": curves,
    "/map": embedding_map,
    "/blind": blind,
}
"""Every page by its address."""
