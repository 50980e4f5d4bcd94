"""Stand-ins for `tensorflow_model_server` in this process.

They are NOT the server: they answer Predict alone, by the exported graph's signatures, over REST in the documented
format (https://www.tensorflow.org/tfx/serving/api_rest) and over gRPC on the official stubs. What only the real server
can show (loading, warm-up, batching, its own limits) is shown by `test_real_server.py` where there is one.
"""

import base64
import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf


class Served:
    """Models of an export's folder, `<name>/<version>/`; faults can be put in their way.

    Attributes:
        asked: (model, signature, items) of every request.
        fault: called before each answer; may raise `Fault`.
    """

    _models: ClassVar[dict[Path, Any]] = {}  # loaded once for all tests
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str, int]] = []
        self.fault: Callable[[], None] = lambda: None

    def signature(self, name: str, version: str, signature: str) -> Any:
        with contextlib.suppress(OSError):
            versions = sorted(
                (p for p in (self.folder / name).iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
            )
            path = self.folder / name / version if version else versions[-1]
            if path.is_dir():
                with self._lock:
                    if path not in self._models:
                        self._models[path] = tf.saved_model.load(str(path))
                if signature not in self._models[path].signatures:
                    raise Fault(400, f'Serving signature key "{signature}" not found.')
                return self._models[path].signatures[signature]
        raise Fault(404, f"Servable not found for request: Latest({name})")

    def answer(self, name: str, version: str, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run a signature on arrays or nested lists."""
        self.fault()
        function = self.signature(name, version, signature)
        specs = {spec.name: spec for spec in function.structured_input_signature[1].values()}
        if set(specs) != set(inputs):
            raise Fault(400, f"input keys {sorted(inputs)} do not match the signature's {sorted(specs)}")
        try:
            given = {key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}
            self.asked.append((name, signature, int(tf.shape(next(iter(given.values())))[0])))
            return {key: value.numpy() for key, value in function(**given).items()}
        except (tf.errors.InvalidArgumentError, TypeError, ValueError) as error:
            raise Fault(400, str(getattr(error, "message", error))) from None


class Fault(Exception):
    """An answer of another HTTP status than 200."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def _decoded(value: Any) -> Any:
    """{"b64": …} as bytes, anywhere."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return [_decoded(part) for part in value] if isinstance(value, list) else value


def _listed(key: str, value: np.ndarray) -> Any:
    """Nested lists; strings as text, but bytes of outputs named …_bytes."""

    def one(cell: Any) -> Any:
        if isinstance(cell, list):
            return [one(part) for part in cell]
        if isinstance(cell, bytes):
            return {"b64": base64.b64encode(cell).decode()} if key.endswith("_bytes") else cell.decode()
        return cell

    return one(value.tolist())


def respond(served: Served, path: str, body: bytes) -> dict[str, Any]:
    """The JSON of one POST …:predict."""
    parts = path.removesuffix(":predict").strip("/").split("/")
    if not path.endswith(":predict") or parts[:2] != ["v1", "models"] or len(parts) not in (3, 5):
        raise Fault(404, f"Malformed request: POST {path}")
    try:
        request = json.loads(body)
    except ValueError:
        raise Fault(400, "JSON Parse error") from None
    rows = "instances" in request
    given = request["instances"] if rows else request["inputs"]
    if rows:
        if not isinstance(given[0], dict) or set(given[0]) == {"b64"}:
            raise Fault(400, "this stand-in takes rows with named inputs only")
        given = {key: [row[key] for row in given] for key in given[0]}
    inputs = {key: _decoded(value) for key, value in given.items()}
    signature = request.get("signature_name", "serving_default")
    outputs = served.answer(parts[2], parts[4] if len(parts) == 5 else "", signature, inputs)
    listed = {key: _listed(key, value) for key, value in outputs.items()}
    if not rows:
        return {"outputs": listed if len(listed) > 1 else next(iter(listed.values()))}
    counts = {key: len(value) for key, value in listed.items()}
    if len(set(counts.values())) != 1:
        raise Fault(400, f"outputs of different batch sizes: {counts}")
    named = [dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]
    return {"predictions": named if len(listed) > 1 else next(iter(listed.values()))}


@contextlib.contextmanager
def rest_server(served: Served) -> Iterator[str]:
    """The REST stand-in's address while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                code, content = 200, respond(served, self.path, body)
            except Fault as fault:
                code, content = fault.code, {"error": str(fault)}
            answer = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def odd_server(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that writes to the bare connection what a test says, and the first lines of what it was
    asked."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().strip())
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.rfile.read(length)
            with contextlib.suppress(OSError):
                answer(self.connection)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()


@contextlib.contextmanager
def grpc_server(served: Served, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The gRPC stand-in's address while it runs, with TLS where a key and its certificate are given; needs grpcio and
    tensorflow-serving-api."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:
            spec = request.model_spec
            version = str(spec.version.value) if spec.HasField("version") else ""
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            plain = {key: value.tolist() if value.dtype == object else value for key, value in inputs.items()}
            try:
                outputs = served.answer(spec.name, version, spec.signature_name or "serving_default", plain)
            except Fault as fault:
                codes = {400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND}
                context.abort(codes.get(fault.code, grpc.StatusCode.UNAVAILABLE), str(fault))
            answer = predict_pb2.PredictResponse()
            for key, value in outputs.items():
                answer.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            return answer

    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(16), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = [(certificate[0].read_bytes(), certificate[1].read_bytes())]
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
