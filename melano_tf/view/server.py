"""The server: bound to this machine, a token in the address, no other site can talk to it."""

import ctypes
import ipaddress
import logging
import secrets
import sys
import webbrowser
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import Server

from melano_tf.errors import InputError
from melano_tf.view.deepzoom import ByteCache
from melano_tf.view.pages import PAGES, build
from melano_tf.view.picture_handlers import patterns
from melano_tf.view.run_cases import Runs
from melano_tf.view.settings import ViewSettings
from melano_tf.view.site import Site, app

WARM_S = 10.0
TOKEN_BYTES = 24
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h


def is_this_machine(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_address(host: str) -> str:
    """A host as browsers write it in an address: IPv6 at its shortest, in brackets."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host.lower()
    return f"[{found}]" if found.version == 6 else str(found)


def make_server(settings: ViewSettings) -> tuple[Server, Site]:
    """The server, listening but not yet answering, and what its pages share.

    Raises:
        InputError: a folder holds no run, or the address cannot be listened on.
    """
    if settings.cache_mib < 1:
        raise InputError("view: --cache-mib is at least 1")
    if not 0 <= settings.port < 1 << 16:
        raise InputError("view: --port lies between 0 and 65535")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    site = Site(Runs(settings.runs), f"/{token}", ByteCache(settings.cache_mib << 20))
    applications = {
        route: Application(FunctionHandler(app(site, partial(build, name)))) for route, name in PAGES.items()
    }
    try:
        server = Server(
            applications,
            address=settings.host,
            port=settings.port,
            prefix=token,
            extra_patterns=patterns(site),
            use_index=False,
            allow_websocket_origin=["127.0.0.1:0"],  # replaced below, when the port is known
            include_cookies=["shade", "reader"],
            websocket_max_message_size=8 << 20,
        )
    except OSError as error:
        where = f"{in_address(settings.host)}:{settings.port}"
        raise InputError(f"view: cannot listen on {where} ({error.strerror or error}); choose another --port") from None
    server._tornado._websocket_origins = set(origins(settings.host, int(server.port or 0)))
    return server, site


def origins(host: str, port: int) -> list[str]:
    """Pages of which addresses may talk to the server: its own."""
    names = ["127.0.0.1", "localhost"] if is_this_machine(host) else [host]
    if host in ("0.0.0.0", "::"):
        names = ["*"]  # by whatever name this machine is called; the token is what guards it
    return [f"{in_address(name)}:{port}" for name in dict.fromkeys([*names, host])]


def address(settings: ViewSettings, server: Server, site: Site) -> str:
    """Where to begin: the cases of the one run, or the list of runs."""
    # Who listens on all of IPv6 listens on none of IPv4.
    host = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    page = site.href("cases", run=0) if len(site.runs) == 1 else site.href("")
    return f"http://{in_address(host)}:{server.port}{page}"


def give_back_freed_memory() -> None:
    """Have glibc give large arrays back to the system when they are freed; other C libraries are left as they are.

    By itself it learns from the first such array to keep all later ones, and what a tissue mask took stays taken.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 20)
        library.mallopt(M_ARENA_MAX, 2)


def warm(site: Site) -> None:
    """Read the runs, and build two pages for nobody: what is then imported and opened, no reader waits for."""
    for number in range(len(site.runs)):
        site.runs.get(number)
    for name in ("cases", "slide" if site.runs.last(0).judges == "slides" else "image"):
        app(site, partial(build, name))(Document())


def view(settings: ViewSettings, say: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Raises:
        InputError: see `make_server`.
    """
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    give_back_freed_memory()
    server, site = make_server(settings)
    where = address(settings, server, site)
    # The address is said when the first pages stand; where that takes long, before.
    wait([site.aside.submit(warm, site)], timeout=WARM_S)
    if not is_this_machine(settings.host):
        say(
            f"WARNING: --host {settings.host} opens these runs, with all pictures of their patients, to everybody "
            "who can reach this machine and learns the address below; nothing is encrypted"
        )
    say(f"view      {', '.join(site.runs.names())}: {where}")
    say("          notes are written to notes/<reader>.csv of each run, nothing else is changed; Ctrl-C ends it")
    server.start()
    if settings.browser:
        server.io_loop.add_callback(webbrowser.open, where)
    try:
        server.io_loop.start()
    except KeyboardInterrupt:
        say("view      ended")
    finally:
        server.stop()
        for pool in (site.tiles_pool, site.pool, site.aside, site.models):
            pool.shutdown(wait=False, cancel_futures=True)
