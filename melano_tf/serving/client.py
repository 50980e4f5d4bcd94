"""Questions to an exported model: over REST, over gRPC, or to its folder; each with the same answers.

`Client` cuts long lists into chunks, asks again with growing pauses where a server is busy or away, and sends a chunk
that was refused once more item by item, so that one bad image spoils no other's answer. A chunk is one question, whose
tries all have one deadline; so is each item of one that was refused, however long the refusal took.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from melano_tf.errors import InputError, line_of
from melano_tf.serving.http_post import RefusedError, UnavailableError
from melano_tf.serving.transports import (
    FolderTransport,
    GrpcTransport,
    RestTransport,
    Transport,
    find_transport,
)

CHUNK_BYTES = 16 * 2**20  # of encoded images in one request
LONGEST_PAUSE = 20.0  # seconds
LONGEST_TIMEOUT = 86_400.0  # seconds


@dataclass(frozen=True)
class ClientSettings:
    """How a server is asked.

    Raises:
        InputError: a value outside its range.
    """

    timeout: float = 60.0
    """Seconds for a question, of one chunk: from its start to the last byte of its answer, with all further tries.
    Where it is refused its items are asked one by one, each with its own time."""
    retries: int = 4
    """Further tries within that time where the server is away or busy, with pauses of 0.5, 1, 2, … seconds."""
    chunk: int = 16
    """Images or tiles in one request; fewer where they are large."""

    def __post_init__(self) -> None:
        if not (0 < self.timeout <= LONGEST_TIMEOUT and self.retries >= 0 and self.chunk >= 1):
            raise InputError(
                f"--timeout {self.timeout:g}, --retries {self.retries}, --chunk {self.chunk}: "
                f"above 0 and at most {LONGEST_TIMEOUT:g}, at least 0, at least 1"
            )


class Client:
    """One model, asked with patience.

    Args:
        transport: the way to it.
        settings: how.
        sleep: waits; for tests.
    """

    def __init__(
        self,
        transport: Transport,
        settings: ClientSettings | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.transport, self.settings = transport, settings or ClientSettings()
        self._sleep = sleep

    def ask(self, signature: str, inputs: Mapping[str, Any], until: float | None = None) -> dict[str, np.ndarray]:
        """One request, tried again where the server is away, until its time is over.

        Args:
            signature, inputs: what is asked.
            until: when the time of the question is over that this request is a part of, by `time.monotonic`; None: the
                request is a question of its own.

        Raises:
            RefusedError: the input was refused.
            InputError: no such model, or no answer after all tries, or in time.
        """
        until = self._deadline() if until is None else until
        for attempt in range(self.settings.retries + 1):
            try:
                return self.transport.call(signature, inputs, max(until - time.monotonic(), 0.001))
            except UnavailableError as error:
                reason = " ".join(str(error).split())
            if attempt == self.settings.retries or time.monotonic() + _pause(attempt) >= until:
                break
            self._sleep(_pause(attempt))
        tries = "1 try" if not attempt else f"{attempt + 1} tries"
        raise InputError(
            f"{self.transport.where}: no answer after {tries} ({reason[:200]}); is the server running, "
            f"and is --timeout {self.settings.timeout:g} long enough?"
        )

    def _deadline(self) -> float:
        """When the time of a question is over that begins now."""
        return time.monotonic() + self.settings.timeout

    def ask_each(self, signature: str, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any] | str]:
        """Answers of many items, each independent of the others; each chunk of them is a question with its own time.

        Args:
            signature: whose inputs and outputs have the items in their first dimension.
            columns: values by input name, all of one length; encoded images as bytes.

        Returns:
            For each item its outputs by name, or the reason why it was refused.
        """
        count = len(next(iter(columns.values())))
        found: list[dict[str, Any] | str] = []
        for start, stop in _chunks(columns, count, self.settings.chunk):
            chunk = {key: _array(v[start:stop]) for key, v in columns.items()}
            found += self._ask_chunk(signature, chunk)
        return found

    def _ask_chunk(self, signature: str, inputs: dict[str, np.ndarray]) -> list[dict[str, Any] | str]:
        count, until = len(next(iter(inputs.values()))), self._deadline()
        try:
            outputs = self.ask(signature, inputs, until)
        except RefusedError as error:
            if count > 1:
                alone = [{key: value[i : i + 1] for key, value in inputs.items()} for i in range(count)]
                return [one for part in alone for one in self._ask_chunk(signature, part)]
            return [self._ask_alone(signature, inputs, str(error), until)]
        return list(self._rows(outputs, count))

    def _rows(self, outputs: Mapping[str, np.ndarray], count: int) -> list[dict[str, Any]]:
        """The outputs of each item.

        Raises:
            InputError: they are not one for each.
        """
        if not outputs or any(np.ndim(value) < 1 or len(value) != count for value in outputs.values()):
            items = "1 item was" if count == 1 else f"{count} items were"
            raise InputError(f"{self.transport.where}: {items} asked, and its answer is not one for each")
        return [{key: value[i] for key, value in outputs.items()} for i in range(count)]

    def _ask_alone(
        self, signature: str, inputs: dict[str, np.ndarray], refusal: str, until: float
    ) -> dict[str, Any] | str:
        """A single item that was refused. A server that joins requests refuses them together, and names an index
        that is not ours; then it is worth asking again."""
        for attempt in range(self.settings.retries):
            if not _perhaps_of_another(refusal) or time.monotonic() + _pause(attempt) >= until:
                break
            self._sleep(_pause(attempt))
            try:
                outputs = self.ask(signature, inputs, until)
            except RefusedError as error:
                refusal = str(error)
            else:
                return self._rows(outputs, 1)[0]
        if _perhaps_of_another(refusal):  # an image that is good must not be called damaged
            return f"refused, perhaps for an image of another request ({refusal_words(refusal)}); ask for it again"
        return refusal_words(refusal)

    def card(self) -> dict[str, Any]:
        """The model's own description; see `export.card_content`.

        Raises:
            InputError: it is no model that this program exported.
        """
        try:
            outputs = self.ask("card", {"ask": np.zeros(1, np.int32)})
            value = next(iter(outputs.values()))
            return dict(json.loads(str(np.asarray(value).ravel()[0])))
        except (RefusedError, ValueError, TypeError, IndexError, StopIteration, RecursionError) as error:
            raise InputError(
                f"{self.transport.where}: the model gives no card, so it was not exported by this program "
                f"({str(error).splitlines()[0][:150] if str(error) else 'no text'})"
            ) from None


def _pause(attempt: int) -> float:
    """Seconds before the next try."""
    return min(0.5 * 2.0**attempt, LONGEST_PAUSE)


def _array(values: Sequence[Any]) -> np.ndarray:
    """An array of the values; bytes and text as objects, which keep what ends in zero bytes whole.

    Raises:
        InputError: they have several lengths.
    """
    if isinstance(values[0], bytes | str):
        result = np.empty(len(values), object)
        result[:] = list(values)
        return result
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"values that are no table ({line_of(error)})") from None


def _chunks(columns: Mapping[str, Sequence[Any]], count: int, most: int) -> list[tuple[int, int]]:
    """(start, stop) of requests of at most `most` items and, where items are large, of CHUNK_BYTES."""
    sizes = [sum(len(column[i]) for column in columns.values() if isinstance(column[i], bytes)) for i in range(count)]
    result, start, total = [], 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start >= most or total + size > CHUNK_BYTES):
            result.append((start, i))
            start, total = i, 0
        total += size
    return [*result, (start, count)] if count else []


def _perhaps_of_another(refusal: str) -> bool:
    """Whether the refusal of a single item names another place than its own among joined requests."""
    index = re.search(r"(?:image|metadata) (\d+)", refusal)
    return index is not None and index.group(1) != "0"


def refusal_words(refusal: str) -> str:
    """Why a single item was refused, without TensorFlow's names of operations."""
    asserted = re.search(r"assertion failed: \[(.*?)\]\s*(?:\n|$|\[\[|\[Op)", refusal, flags=re.DOTALL)
    if asserted:
        return re.sub(r"^(image|metadata) \d+:? ", "", asserted.group(1).strip().strip('"'))
    return "its pixels cannot be decoded (damaged or cut off)"


__all__ = [
    "Client",
    "ClientSettings",
    "FolderTransport",
    "GrpcTransport",
    "RefusedError",
    "RestTransport",
    "Transport",
    "UnavailableError",
    "find_transport",
    "refusal_words",
]
