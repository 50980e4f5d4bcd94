"""A server that breaks off, drips, sends its visitors on or never ends: one line, in time, and asked again only where
that can help."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from melano_tf.errors import InputError
from melano_tf.serving import http_post, transports
from melano_tf.serving.client import Client, ClientSettings, find_transport
from tests.serving.standin import Served, grpc_server, odd_server

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def ask(address: str, timeout: float = 5.0, retries: int = 2) -> None:
    settings = ClientSettings(timeout, retries)
    Client(find_transport(address, "zoome"), settings, sleep=lambda _: None).ask("card", {"ask": [1]})


def dies(connection: socket.socket) -> None:
    connection.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"outputs":')


def dies_in_a_chunk(connection: socket.socket) -> None:
    connection.sendall(HEAD + b'Transfer-Encoding: chunked\r\n\r\n20\r\n{"outputs":')


def says_nothing(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def no_http(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize("answer", [dies, dies_in_a_chunk, says_nothing, no_http])
def test_an_answer_that_breaks_off_is_asked_for_again(answer: Callable[[socket.socket], None]) -> None:
    with odd_server(answer) as (address, asked):
        with pytest.raises(InputError, match=r"no answer after 3 tries \(.+\); is the server running"):
            ask(address)
        assert len(asked) == 3


def test_an_answer_that_was_broken_off_once() -> None:
    answers = [dies]

    def better(connection: socket.socket) -> None:
        if answers:
            return answers.pop()(connection)
        body = b'{"outputs": [1]}'
        return connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with odd_server(better) as (address, asked):
        ask(address)
        assert len(asked) == 2


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX-Drip: ", HEAD + b"Content-Length: 1000\r\n\r\n"])
def test_a_server_that_drips_has_one_deadline(start: bytes) -> None:
    def drips(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(60):
            connection.sendall(b"1")
            time.sleep(0.05)

    with odd_server(drips) as (address, _):
        began = time.monotonic()
        with pytest.raises(InputError, match="no answer after 1 try"):
            ask(address, timeout=0.4, retries=0)
        assert time.monotonic() - began < 1.5


def test_an_answer_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_post, "MAX_ANSWER", 2**20)

    def endless(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"\r\n")
        while True:
            connection.sendall(b"[" * 2**16)

    with odd_server(endless) as (address, asked):
        with pytest.raises(InputError, match="its answer is larger than 1,048,576 bytes, and was not read"):
            ask(address, timeout=20.0)
        assert len(asked) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_nothing_is_sent_on_to_another_address(code: int) -> None:
    def elsewhere(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 14\r\n\r\n" + b'{"outputs": 1}')

    with odd_server(elsewhere) as (other, visits):

        def sends_on(connection: socket.socket) -> None:
            place = f"Location: {other}/v1/models/zoome:predict\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(f"HTTP/1.1 {code} Elsewhere\r\n{place}".encode())

        words = rf"another address \(HTTP {code}\); name the server itself"
        with odd_server(sends_on) as (address, asked), pytest.raises(InputError, match=words):
            ask(address)
        assert not visits and len(asked) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "no JSON"),
        (b"[" * 200_000, "no JSON"),
        (b"{}", "no outputs"),
        (b'{"outputs": {"a": [[1], [1, 2]]}}', "rows of several lengths"),
    ],
)
def test_what_was_answered_oddly_is_not_asked_again(body: bytes, words: str) -> None:
    def odd(connection: socket.socket) -> None:
        connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with odd_server(odd) as (address, asked):
        with pytest.raises(InputError, match=f"not as TensorFlow Serving does .{words}"):
            ask(address)
        assert len(asked) == 1


def test_an_answer_that_is_not_one_for_each_item() -> None:
    body = b'{"outputs": {"probabilities": [[0.5, 0.5]]}}'

    def short(connection: socket.socket) -> None:
        connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with odd_server(short) as (address, _):
        client = Client(find_transport(address, "zoome"), ClientSettings(retries=0))
        with pytest.raises(InputError, match="2 items were asked, and its answer is not one for each"):
            client.ask_each("serving_default", {"image_bytes": [b"a", b"b"]})


@pytest.mark.parametrize("says", ["away", "nothing"])
def test_all_tries_together_have_one_deadline(says: str) -> None:
    def silent(connection: socket.socket) -> None:
        if says == "nothing":
            time.sleep(3.0)

    with odd_server(silent) as (address, asked):
        client = Client(find_transport(address, "zoome"), ClientSettings(timeout=0.9, retries=50))
        began = time.monotonic()
        with pytest.raises(InputError, match=r"no answer after \d+ tr"):
            client.ask("card", {"ask": [1]})
        assert time.monotonic() - began < 2.5 and 1 <= len(asked) <= 3


def test_a_deadline_is_a_number_of_seconds() -> None:
    for timeout in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0 and at most 86400"):
            ClientSettings(timeout)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A key and a certificate of 127.0.0.1 that signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*made.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


def test_grpc_with_tls(served: Served, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")
    with grpc_server(served, certificate) as address:

        def card(scheme: str) -> str:
            transport = find_transport(f"{scheme}://{address}", "seven")
            return str(Client(transport, ClientSettings(timeout=20.0, retries=0)).card()["name"])

        for scheme in ("grpcs", "grpc"):  # nobody vouches for it; and without TLS nothing is said
            with pytest.raises(InputError, match=rf"{scheme}://.*no answer after 1 try"):
                card(scheme)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
        assert card("grpcs") == "seven"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]) + ".none")
        with pytest.raises(InputError, match=r"SSL_CERT_FILE=.*No such file"):
            card("grpcs")


def test_an_answer_over_grpc_has_a_largest_size_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")
    monkeypatch.setattr(transports, "MAX_ANSWER", 500)
    words = "its answer is larger than 500 bytes, and was not read"
    with grpc_server(served) as address, pytest.raises(InputError, match=words):
        Client(find_transport(f"grpc://{address}", "seven"), ClientSettings(timeout=20.0)).card()
