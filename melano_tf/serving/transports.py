"""The ways to an exported model: over REST, over gRPC, or to its folder in this process; each gives named arrays."""

import base64
import functools
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import numpy as np

from melano_tf.errors import InputError, line_of
from melano_tf.serving.http_post import MAX_ANSWER, RefusedError, UnavailableError, post_json

VERSION = r"[0-9]{0,18}"  # "": the newest; gRPC has 64 bits for it
ADDRESS = "an address such as http://127.0.0.1:8501 or grpc://127.0.0.1:8500"
ODD = "answers, but not as TensorFlow Serving does"
# What TensorFlow Serving's REST interface tells as one of `http_post.AGAIN`: by both ways the same is asked again.
GRPC_AGAIN = (
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "ALREADY_EXISTS"),
    *("INTERNAL", "UNKNOWN", "DATA_LOSS"),
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
            raise InputError(f"{self.url}: {ODD} (no outputs)")
        # A signature's only output comes without its name.
        named = outputs if isinstance(outputs, dict) else {"": outputs}
        try:
            return {key: np.asarray(value) for key, value in named.items()}
        except ValueError:
            raise InputError(f"{self.url}: {ODD} (rows of several lengths)") from None


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
            text = " ".join(text.split())
            if code is self._grpc.StatusCode.NOT_FOUND:
                raise InputError(f"{_not_there(self.where, self.name, self.version)} ({text})") from None
            if code is self._grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
                raise InputError(_too_large(self.where)) from None
            if code.name in GRPC_AGAIN:
                raise UnavailableError(f"{code.name}: {text}") from None
            raise InputError(f"{self.where}: {code.name}: {text}") from None
        return _arrays(answer.outputs, self.where)


def _arrays(outputs: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """The tensors of an answer over gRPC as arrays.

    Raises:
        InputError: one is not what it says of itself, or becomes larger than an answer may be.
    """
    import tensorflow as tf

    # Few bytes can stand for many: a tensor repeats its last value as often as its shape says.
    numbers = [math.prod(max(one.size, 0) for one in tensor.tensor_shape.dim) for tensor in outputs.values()]
    if sum(numbers) > MAX_ANSWER:
        raise InputError(_too_large(where))
    try:
        return {key: _texts(tf.make_ndarray(tensor)) for key, tensor in outputs.items()}
    except KeyError as error:
        raise InputError(f"{where}: {ODD} (no array can be of kind {error})") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {ODD} ({line_of(error)[:200]})") from None


def _too_large(where: str) -> str:
    return f"{where}: its answer is larger than {MAX_ANSWER:,} bytes, and was not read"


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
        except MemoryError:
            raise
        except Exception as error:  # what a reader of graphs raises of damaged bytes is of any kind
            line = (str(error) or type(error).__name__).splitlines()[0][:300]
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
        except tf.errors.OpError as error:  # what this machine cannot do, as grouped convolutions without oneDNN
            raise InputError(f"{self.where}: {signature!r} cannot be run here ({line_of(error)[:200]})") from None
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
