"""One POST of JSON to a server that may be slow, broken or not what it should be.

The whole exchange, from the name's look-up to the last byte, has one deadline; the answer has a largest size; nothing
is sent on to another address. A question to a model changes nothing on the server, so that any request that got no
answer may be asked again; what was answered, however oddly, is not.
"""

import http.client
import json
import queue
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from melano_tf.errors import InputError, line_of

MAX_ANSWER = 64 * 2**20  # bytes; the embeddings of 256 tiles take some 10 MiB as JSON
PIECE = 2**16  # bytes read at once
AGAIN = (408, 409, 429, 500, 502, 503, 504)  # busy, away, or lost on its way; 409: broken off (gRPC's ABORTED)


class RefusedError(Exception):
    """The model refused its input (InvalidArgument); the message is its reason."""


class UnavailableError(Exception):
    """No answer: away, busy, or too late. Asking again may help."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: patients' images go to the address that was named, and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post_json(url: str, body: bytes, timeout: float, no_such_model: str) -> Any:
    """Send JSON and return the content of the answer.

    Args:
        url: where to.
        body: encoded JSON.
        timeout: seconds for all of it.
        no_such_model: words for HTTP 404.

    Raises:
        RefusedError: HTTP 400.
        UnavailableError: away, busy, too late, or gone in the middle of its answer.
        InputError: an answer that is none of TensorFlow Serving: no JSON, too long, a redirect, another status.
    """
    until = time.monotonic() + timeout
    code, answer = within(timeout, lambda: _exchange(url, body, until))
    if code == 200:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise InputError(f"{url}: answers, but not as TensorFlow Serving does (no JSON)") from None
    text = _error_text(answer)
    if code == 400:
        raise RefusedError(text)
    text = " ".join(text.split())
    if code == 404:
        raise InputError(f"{no_such_model} ({text or 'not found'})")
    if code in AGAIN:
        raise UnavailableError(f"HTTP {code}: {text}")
    if 300 <= code < 400:
        raise InputError(f"{url}: sends its visitors on to another address (HTTP {code}); name the server itself")
    raise InputError(f"{url}: HTTP {code}: {text}")


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` gives, in a thread of its own, waited for at most so long.

    A look-up of a name has no time-out at all, and a socket's counts from byte to byte.

    Raises:
        UnavailableError: it took longer; the thread is left behind, and ends with the program at the latest.
    """
    found: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put((work(), None))
        except BaseException as error:
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = found.get(timeout=seconds)
    except queue.Empty:
        raise UnavailableError(f"no whole answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value


def _exchange(url: str, body: bytes, until: float) -> tuple[int, bytes]:
    """(status, content) of the answer."""
    opener = urllib.request.build_opener(_Stay)
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        try:
            with opener.open(request, timeout=max(until - time.monotonic(), 0.001)) as response:
                return response.status, _content(response, until, url)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _content(error, until, url)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise InputError(f"{url}: its certificate cannot be trusted ({reason.verify_message})") from None
        raise UnavailableError(str(reason) or type(error).__name__) from None
    except ValueError as error:  # a port or a name that cannot be one
        raise InputError(f"{url}: no address that can be asked ({line_of(error)})") from None


def _content(response: Any, until: float, url: str) -> bytes:
    """All that comes before the deadline, up to the largest size."""
    parts, size = [], 0
    while piece := response.read1(PIECE):
        size += len(piece)
        if size > MAX_ANSWER:
            raise InputError(f"{url}: its answer is larger than {MAX_ANSWER:,} bytes, and was not read")
        if time.monotonic() > until:
            raise UnavailableError("its answer came too slowly")
        parts.append(piece)
    if response.length:  # what its header had promised besides
        raise UnavailableError(f"its answer broke off {response.length:,} bytes before its end")
    return b"".join(parts)


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])[:1000]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:200].decode(errors="replace").strip()
