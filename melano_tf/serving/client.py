"""Questions to an exported model: over REST, over gRPC, or to its folder; each with the same answers.

`Client` cuts long lists into chunks, asks again with growing pauses where a server is busy or away, and sends a chunk
that was refused once more item by item, so that one bad image spoils no other's answer.
"""

import base64
import functools
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import numpy as np

from melano_tf.errors import InputError, line_of
from melano_tf.serving.http_post import MAX_ANSWER, RefusedError, UnavailableError, post_json

CHUNK_BYTES = 16 * 2**20  # of encoded images in one request
LONGEST_PAUSE = 20.0  # seconds
LONGEST_TIMEOUT = 86_400.0  # seconds
VERSION = r"[0-9]{0,18}"  # "": the newest; gRPC has 64 bits for it
ADDRESS = "an address such as http://127.0.0.1:8501 or grpc://127.0.0.1:8500"


@dataclass(frozen=True)
class ClientSettings:
    """How a server is asked.

    Raises:
        InputError: a value outside its range.
    """

    timeout: float = 60.0
    """Seconds until a request counts as lost: from its start to the last byte of its answer, further tries included."""
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


class Transport(Protocol):
    """One way to a model: `where` names it in messages."""

    where: str

    def call(self, signature: str, inputs: Mapping[str, Any], timeout: float) -> dict[str, np.ndarray]:
        """The named outputs of a signature. Raises RefusedError, UnavailableError or InputError."""
        ...


def find_transport(server: str, model: str) -> Transport:
    """The way to a model on a server.

    Args:
        server: http://host:8501, https://…, grpc://host:8500, or grpcs://…, which is gRPC with TLS.
        model: its name there, with /VERSION behind it for one that is not the newest.

    Raises:
        InputError: the address or the name cannot be one, or gRPC is not installed.
    """
    name, _, version = model.partition("/")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not re.fullmatch(VERSION, version):
        raise InputError(f"--model {model}: with --server this is the model's name there, such as zoome or zoome/1")
    try:
        parts = urlsplit(server)
    except ValueError as error:  # a bracket that is not closed, or that holds no address
        raise InputError(f"--server {server}: {line_of(error)}; {ADDRESS}") from None
    if parts.scheme in ("http", "https") and parts.netloc:
        return RestTransport(server.rstrip("/"), name, version)
    if parts.scheme in ("grpc", "grpcs") and parts.netloc:
        return GrpcTransport(parts.netloc, name, version, secure=parts.scheme == "grpcs")
    raise InputError(f"--server {server}: {ADDRESS}")


def _not_there(where: str, name: str, version: str) -> str:
    """Words for a model that a server does not have."""
    if not version:
        return f"{where}: no such model {name!r} there"
    # A server lets a version go when a newer one comes.
    return f"{where}: no version {version} of the model {name!r} there, or no longer; --model {name}/N names another"


class RestTransport:
    """TensorFlow Serving's REST interface, in its column format."""

    def __init__(self, base: str, name: str, version: str = "") -> None:
        self.where, self._missing = base, _not_there(base, name, version)
        self.url = f"{base}/v1/models/{quote(name)}" + (f"/versions/{version}" if version else "") + ":predict"

    def call(self, signature: str, inputs: Mapping[str, Any], timeout: float) -> dict[str, np.ndarray]:
        columns = {key: _jsonable(np.asarray(value)) for key, value in inputs.items()}
        try:
            body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.where}: values that cannot be sent ({line_of(error)[:200]})") from None
        content = post_json(self.url, body, timeout, self._missing)
        outputs = content.get("outputs") if isinstance(content, dict) else None
        if outputs is None:
            raise InputError(f"{self.url}: answers, but not as TensorFlow Serving does (no outputs)")
        # A signature's only output comes without its name.
        named = outputs if isinstance(outputs, dict) else {"": outputs}
        try:
            return {key: np.asarray(value) for key, value in named.items()}
        except ValueError:
            raise InputError(
                f"{self.url}: answers, but not as TensorFlow Serving does (rows of several lengths)"
            ) from None


def _jsonable(value: np.ndarray) -> Any:
    """Nested lists; bytes as TensorFlow Serving wants them."""
    if value.dtype != object:
        return value.tolist()
    if value.ndim > 1:
        return [_jsonable(part) for part in value]
    return [{"b64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for v in value]


class GrpcTransport:
    """TensorFlow Serving's PredictionService, by the official stubs; `secure` with TLS, by the certificates that gRPC
    trusts, or those of the file that SSL_CERT_FILE names, as for https."""

    def __init__(self, address: str, name: str, version: str = "", secure: bool = False) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise InputError(
                f"grpc:// needs grpcio and tensorflow-serving-api ({line_of(error)}): "
                'pip install "melano_tf[serving]"; or use http://, which needs neither'
            ) from None
        self.where, self.name, self.version = f"grpc{'s' * secure}://{address}", name, version
        limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", MAX_ANSWER)]
        self._grpc, self._request = grpc, predict_pb2.PredictRequest
        if secure:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(_trusted()), limits)
        else:
            self._channel = grpc.insecure_channel(address, limits)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def call(self, signature: str, inputs: Mapping[str, Any], timeout: float) -> dict[str, np.ndarray]:
        import tensorflow as tf

        request = self._request()
        request.model_spec.name, request.model_spec.signature_name = self.name, signature
        if self.version:
            request.model_spec.version.value = int(self.version)
        try:
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.where}: values that cannot be sent ({line_of(error)[:200]})") from None
        try:
            answer = self._stub.Predict(request, timeout=timeout)
        except self._grpc.RpcError as error:
            code, text = error.code(), error.details() or ""
            if code is self._grpc.StatusCode.INVALID_ARGUMENT:
                raise RefusedError(text) from None
            if code is self._grpc.StatusCode.NOT_FOUND:
                raise InputError(f"{_not_there(self.where, self.name, self.version)} ({text})") from None
            if code is self._grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
                raise InputError(
                    f"{self.where}: its answer is larger than {MAX_ANSWER:,} bytes, and was not read"
                ) from None
            again = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNKNOWN")
            if code.name in again:
                raise UnavailableError(f"{code.name}: {text}") from None
            raise InputError(f"{self.where}: {code.name}: {text}") from None
        return {key: _texts(tf.make_ndarray(value)) for key, value in answer.outputs.items()}


def _trusted() -> bytes | None:
    """The certificates that this machine's user trusts besides the usual ones (PEM); None: the usual ones.

    Raises:
        InputError: their file cannot be read.
    """
    path = os.environ.get("SSL_CERT_FILE")
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise InputError(f"SSL_CERT_FILE={path}: cannot be read ({error.strerror or error})") from None


class FolderTransport:
    """The exported graph itself, in this process."""

    def __init__(self, folder: Path) -> None:
        self.where, self._folder = str(folder), folder

    @functools.cached_property
    def _model(self) -> Any:
        import tensorflow as tf

        try:
            return tf.saved_model.load(str(self._folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            line = str(error).splitlines()[0]
            raise InputError(f"{self._folder}: cannot be loaded as an exported model ({line})") from None

    def call(self, signature: str, inputs: Mapping[str, Any], timeout: float) -> dict[str, np.ndarray]:
        import tensorflow as tf

        if signature not in self._model.signatures:
            raise InputError(f"{self.where}: has no signature {signature!r}; there are {', '.join(self.signatures)}")
        function = self._model.signatures[signature]
        kinds = {spec.name: spec.dtype for spec in function.structured_input_signature[1].values()}
        try:
            given = {key: tf.constant(_plain_array(value), kinds.get(key)) for key, value in inputs.items()}
            return {key: _texts(value.numpy()) for key, value in function(**given).items()}
        except tf.errors.InvalidArgumentError as error:
            raise RefusedError(error.message) from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.where}: {signature!r} takes other values ({line_of(error)[:200]})") from None

    @property
    def signatures(self) -> list[str]:
        """Names of the signatures."""
        return sorted(self._model.signatures)


def _plain_array(value: Any) -> Any:
    array = np.asarray(value)
    return array.tolist() if array.dtype == object else array


def _texts(value: np.ndarray) -> np.ndarray:
    """Bytes as text."""
    if value.dtype != object:
        return value
    return np.array([v.decode() if isinstance(v, bytes) else v for v in value.ravel()], object).reshape(value.shape)


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

    def ask(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """One request, tried again where the server is away, until its time is over.

        Raises:
            RefusedError: the input was refused.
            InputError: no such model, or no answer after all tries, or in time.
        """
        until = time.monotonic() + self.settings.timeout
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

    def ask_each(self, signature: str, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any] | str]:
        """Answers of many items, each independent of the others.

        Args:
            signature: whose inputs and outputs have the items in their first dimension.
            columns: values by input name, all of one length; encoded images as bytes.

        Returns:
            For each item its outputs by name, or the reason why it was refused.
        """
        count = len(next(iter(columns.values())))
        found: list[dict[str, Any] | str] = []
        for start, stop in _chunks(columns, count, self.settings.chunk):
            found += self._ask_chunk(signature, {key: _array(v[start:stop]) for key, v in columns.items()})
        return found

    def _ask_chunk(self, signature: str, inputs: dict[str, np.ndarray]) -> list[dict[str, Any] | str]:
        count = len(next(iter(inputs.values())))
        try:
            outputs = self.ask(signature, inputs)
        except RefusedError as error:
            if count > 1:
                alone = [{key: value[i : i + 1] for key, value in inputs.items()} for i in range(count)]
                return [one for part in alone for one in self._ask_chunk(signature, part)]
            return [self._ask_alone(signature, inputs, str(error))]
        if not outputs or any(np.ndim(value) < 1 or len(value) != count for value in outputs.values()):
            raise InputError(f"{self.transport.where}: {count} items were asked, and its answer is not one for each")
        return [{key: value[i] for key, value in outputs.items()} for i in range(count)]

    def _ask_alone(self, signature: str, inputs: dict[str, np.ndarray], refusal: str) -> dict[str, Any] | str:
        """A single item that was refused. A server that joins requests refuses them together, and names an index
        that is not ours; then it is worth asking again."""
        for attempt in range(self.settings.retries):
            index = re.search(r"(?:image|metadata) (\d+)", refusal)
            if index is None or index.group(1) == "0":
                break
            self._sleep(_pause(attempt))
            try:
                return {key: value[0] for key, value in self.ask(signature, inputs).items()}
            except RefusedError as error:
                refusal = str(error)
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
