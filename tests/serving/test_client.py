"""The client against stand-ins for the server: retries, refusals, chunks, clear lines, the same numbers."""

import contextlib
import importlib.util
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.serving import client as client_module
from melano_tf.serving.client import (
    CHUNK_BYTES,
    Client,
    ClientSettings,
    RefusedError,
    UnavailableError,
    _chunks,
    find_transport,
    refusal_words,
)
from tests.papers.tiny import Finished
from tests.pipelines.small_slides import write_slide_file
from tests.serving.conftest import Models
from tests.serving.pictures import FILES, bad_files
from tests.serving.standin import Fault, Served, grpc_server, rest_server

Command = Callable[..., Finished]


class Scripted:
    """A transport that answers as a test says: an exception, or outputs made from the inputs."""

    where = "scripted"

    def __init__(self, *script: Any) -> None:
        self.script, self.calls = list(script), list[dict[str, Any]]()

    def call(self, signature: str, inputs: Any, timeout: float) -> dict[str, np.ndarray]:
        self.calls.append({key: list(value) for key, value in inputs.items()})
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step(inputs)
        return {"length": np.array([len(value) for value in inputs["image_bytes"]])}


def refuse_bad(inputs: Any) -> None:
    bad = [k for k, value in enumerate(inputs["image_bytes"]) if value.startswith(b"bad")]
    if bad:
        raise RefusedError(f"assertion failed: [image {bad[0]} is cut off]\n\t [[{{{{node Assert}}}}]]")


def test_a_server_that_is_away_is_asked_again_with_growing_pauses() -> None:
    pauses: list[float] = []
    away = [UnavailableError("connection refused")] * 3
    client = Client(Scripted(*away), ClientSettings(retries=3), sleep=pauses.append)
    assert client.ask("s", {"image_bytes": [b"abc"]})["length"].tolist() == [3]
    assert pauses == [0.5, 1.0, 2.0]
    client = Client(Scripted(*away), ClientSettings(retries=2), sleep=pauses.append)
    with pytest.raises(InputError, match=r"scripted: no answer after 3 tries \(connection refused\); is the server"):
        client.ask("s", {"image_bytes": [b"abc"]})


def test_a_refused_chunk_is_sent_again_one_by_one() -> None:
    transport = Scripted(*[refuse_bad] * 9)
    client = Client(transport, ClientSettings(chunk=3), sleep=lambda _: None)
    found = client.ask_each("s", {"image_bytes": [b"a", b"bad", b"ccc", b"dddd"]})
    assert [row if isinstance(row, str) else int(row["length"]) for row in found] == [1, "is cut off", 3, 4]
    assert [len(call["image_bytes"]) for call in transport.calls] == [3, 1, 1, 1, 1]


def test_a_refusal_of_somebody_elses_image_is_asked_again() -> None:
    foreign = RefusedError("assertion failed: [image 5 is empty]")
    transport = Scripted(foreign, foreign)
    client = Client(transport, ClientSettings(), sleep=lambda _: None)
    assert [
        int(row["length"]) for row in client.ask_each("s", {"image_bytes": [b"ab"]}) if not isinstance(row, str)
    ] == [2]
    assert len(transport.calls) == 3


class Slow:
    """A transport whose every request takes so many seconds of a clock that only it and pauses move; it refuses what
    begins with "bad", alone by its own index or that of somebody else's image."""

    where = "slow"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, index: int = 0) -> None:
        self.now, self.seconds, self.index, self.given = 1000.0, seconds, index, list[float]()
        monkeypatch.setattr(client_module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def call(self, signature: str, inputs: Any, timeout: float) -> dict[str, np.ndarray]:
        self.given.append(round(timeout, 3))
        self.now += min(timeout, self.seconds)
        if timeout < self.seconds:
            raise UnavailableError("too late")
        if any(value.startswith(b"bad") for value in inputs["image_bytes"]):
            raise RefusedError(f"assertion failed: [image {self.index} is empty]")
        return {"length": np.array([len(value) for value in inputs["image_bytes"]])}


def test_an_item_that_is_refused_again_and_again_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that joins requests, and takes nearly half of the time to refuse somebody else's image."""
    transport = Slow(monkeypatch, 25.0, index=7)
    client = Client(transport, ClientSettings(timeout=60.0, retries=4), sleep=transport.sleep)
    with pytest.raises(InputError, match=r"slow: no answer after 1 try \(too late\); .* --timeout 60 long enough"):
        client.ask_each("s", {"image_bytes": [b"bad"]})
    assert transport.given == [60.0, 34.5, 8.5] and transport.now == 1060.0  # less the pauses of 0.5 and 1 s


@pytest.mark.parametrize(("timeout", "retries", "asked"), [(60.0, 2, 4), (1.2, 4, 3), (60.0, 0, 2)])
def test_what_was_refused_for_somebody_elses_image_to_the_end_is_not_called_damaged(
    timeout: float, retries: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first chunk "bad" is refused by the index of somebody else's image: after all tries, or in its time."""
    transport = Slow(monkeypatch, 0.1, index=7)
    client = Client(transport, ClientSettings(timeout, retries, chunk=1), sleep=transport.sleep)
    [found, good] = client.ask_each("s", {"image_bytes": [b"bad", b"ab"]})
    assert found == "refused, perhaps for an image of another request (is empty); ask for it again"
    assert not isinstance(good, str) and int(good["length"]) == 2
    assert len(transport.given) == asked


@pytest.mark.parametrize("seconds", [10.0, 59.0])
def test_a_chunk_and_each_item_of_one_that_is_refused_has_its_own_deadline(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a server that takes nearly all of a chunk's time to refuse it."""
    transport = Slow(monkeypatch, seconds)
    client = Client(transport, ClientSettings(timeout=60.0, chunk=2), sleep=transport.sleep)
    found = client.ask_each("s", {"image_bytes": [b"a", b"bad", b"ccc", b"dddd"]})
    assert [row if isinstance(row, str) else int(row["length"]) for row in found] == [1, "is empty", 3, 4]
    assert transport.given == [60.0, 60.0, 60.0, 60.0]


def test_an_item_alone_whose_answer_is_none_of_it() -> None:
    class Scalar(Scripted):
        def call(self, signature: str, inputs: Any, timeout: float) -> dict[str, np.ndarray]:
            super().call(signature, inputs, timeout)
            return {"length": np.array(3)}

    client = Client(Scalar(RefusedError("assertion failed: [image 5 is empty]")), sleep=lambda _: None)
    with pytest.raises(InputError, match="scripted: 1 item was asked, and its answer is not one for each"):
        client.ask_each("s", {"image_bytes": [b"ab"]})


def test_chunks_are_bounded_by_number_and_bytes() -> None:
    large = bytes(CHUNK_BYTES // 2 + 1)
    assert _chunks({"x": [b"a"] * 5}, 5, 2) == [(0, 2), (2, 4), (4, 5)]
    assert _chunks({"x": [large, large, b"a", b"b"]}, 4, 10) == [(0, 1), (1, 4)]
    assert _chunks({"x": []}, 0, 10) == []


def test_the_words_of_a_refusal() -> None:
    text = "{{function_node __inference_f_1}} assertion failed: [metadata 0: age 130 lies outside]\n\t [[{{node A}}]]"
    assert refusal_words(text) == "age 130 lies outside"
    assert refusal_words("Invalid PNG data, size 7") == "its pixels cannot be decoded (damaged or cut off)"


@pytest.mark.parametrize(
    "address", ["localhost:8501", "ftp://a", "http://", "grpc:", "http://[::1:8501", "grpc://[abc]:8500"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(InputError, match="an address such as"):
        find_transport(address, "zoome")


@pytest.mark.parametrize("model", ["../zoome", "zoome/x", "zoome/1/2", "zoome/²", "zoome/" + "9" * 19])
def test_a_name_or_a_version_that_is_none(model: str) -> None:
    with pytest.raises(InputError, match="the model's name there, such as zoome or zoome/1"):
        find_transport("http://127.0.0.1:8501", model)


def records(out: Path) -> list[dict[str, Any]]:
    found = json.loads((out / "predictions.json").read_text())
    return [{k: v for k, v in record.items() if k != "model"} for record in found]


def same(first: Any, second: Any) -> bool:
    """Equal, numbers within 1e-5."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, float):
        return second == pytest.approx(first, abs=1e-5)
    return first == second


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images, and among them bad ones; a CSV of what is known."""
    folder = tmp_path_factory.mktemp("folder")
    for name in ("photo.jpg", "grey16.png", "palette.png", "large.jpg"):
        (folder / name).write_bytes(FILES[name]())
    (folder / "cut.jpg").write_bytes(bad_files()["cut.jpg"][0])
    (folder / "bomb.png").write_bytes(bad_files()["bomb.png"][0])
    (folder / "told.csv").write_text("image,age,sex,site\nphoto,55,f,back\nlarge,,male,\n")
    return folder


@contextlib.contextmanager
def every_server(served: Served) -> Iterator[dict[str, str]]:
    """Addresses of the stand-ins by their kind; without gRPC where its stubs are not installed."""
    with contextlib.ExitStack() as stack:
        found = {"rest": stack.enter_context(rest_server(served))}
        if importlib.util.find_spec("tensorflow_serving") is not None:
            found["grpc"] = "grpc://" + stack.enter_context(grpc_server(served))
        yield found


def test_images_get_the_same_answers_by_every_way(
    models: Models, served: Served, folder: Path, tmp_path: Path, inside: Command
) -> None:
    options = ["--input", str(folder), "--metadata", str(folder / "told.csv")]
    done = inside("predict", "--model", str(models.files["zoome"]), *options, "--out", str(tmp_path / "local"))
    assert done.code == 0, done.errors
    local = records(tmp_path / "local")
    with every_server(served) as addresses:
        ways = {way: ("--server", address, "--model", "zoome/1") for way, address in addresses.items()}
        ways["folder"] = ("--model", str(models.exports["zoome"].folder))
        for way, arguments in ways.items():
            done = inside("predict", *arguments, *options, "--out", str(tmp_path / way))
            assert done.code == 0, done.errors
            check_answers(local, records(tmp_path / way), done.shown)


def check_answers(local: list[dict[str, Any]], far: list[dict[str, Any]], shown: str) -> None:
    assert [record["input"] for record in far] == [record["input"] for record in local]
    for mine, theirs in zip(local, far, strict=True):
        # Only the words for what cannot be read are the graph's own.
        assert ("unreadable" in mine) == ("unreadable" in theirs)
        assert same(*({k: v for k, v in record.items() if k != "unreadable"} for record in (mine, theirs)))
    assert sum(record["decision"] is not None for record in far) == 4
    assert "cut.jpg: unreadable (is cut off: its end marker is missing)" in shown
    assert "bomb.png: unreadable (has more pixels than the limit of 400,000)" in shown
    assert "sensitivity 0.8000 (95% interval 0.7000 to 0.9000), specificity 0.7000" in shown
    assert "Research only; not a medical device" in shown


def test_seven_classes_over_rest(models: Models, rest: str, folder: Path, tmp_path: Path, inside: Command) -> None:
    options = ("--input", str(folder / "photo.jpg"))
    local = inside("predict", "--model", str(models.files["seven"]), *options, "--out", str(tmp_path / "a"))
    far = inside("predict", "--server", rest, "--model", "seven", *options, "--out", str(tmp_path / "b"))
    assert (local.code, far.code) == (0, 0), local.errors + far.errors
    first, second = (json.loads((tmp_path / name / "prediction.json").read_text()) for name in "ab")
    assert same(first["probabilities"], second["probabilities"]) and first["decision"] == second["decision"]


def test_a_list_of_images_with_metadata(
    models: Models, rest: str, folder: Path, tmp_path: Path, inside: Command
) -> None:
    table = folder / "list.csv"
    table.write_text("path,age,sex\nphoto.jpg,55,f\npalette.png,,\n")
    far = ("--server", rest, "--model", "zoome", "--out", str(tmp_path))
    done = inside("predict", *far, "--input", str(table))
    assert done.code == 0, done.errors
    assert [record["evidence"]["metadata"]["age"] for record in records(tmp_path)] == [55.0, None]
    table.write_text("path,age\nphoto.jpg,old\nnone.jpg,\nphoto.jpg,50\n")
    done = inside("predict", *far, "--input", str(table))
    assert done.code == 2 and "row 3" in done.errors and "row 4: photo stands in row 2 already" in done.errors
    table.unlink()


def test_slides_get_the_same_answers(models: Models, served: Served, tmp_path: Path, inside: Command) -> None:
    slide = write_slide_file(tmp_path / "s1.tif", seed=1)
    write_slide_file(tmp_path / "s2.tif", seed=2, tissue=False)
    (tmp_path / "slides.csv").write_text("path,slide_id\ns1.tif,one\ns2.tif,empty\n")
    done = inside(
        "predict", "--model", str(models.files["biopsy"]), "--input", str(slide), "--out", str(tmp_path / "a")
    )
    assert done.code == 0, done.errors
    with every_server(served) as addresses:
        far = ("--server", addresses["rest"], "--model", "biopsy", "--chunk", "4")
        done = inside("predict", *far, "--input", str(tmp_path / "slides.csv"), "--out", str(tmp_path / "b"))
        assert done.code == 0, done.errors
        assert max(items for _, signature, items in served.asked if signature == "embed") == 4
        table = pd.read_csv(tmp_path / "b" / "predictions.csv")
        assert table["slide_id"].tolist() == ["one", "empty"] and "tissue" in table["failed"][1]
        if "grpc" in addresses:
            far = ("--server", addresses["grpc"], "--model", "biopsy")
            done = inside("predict", *far, "--input", str(slide), "--out", str(tmp_path / "c"))
            assert done.code == 0, done.errors
    first = pd.read_csv(tmp_path / "a" / "tiles.csv")
    assert len(first) > 4, "the slide must need several chunks"
    mine = json.loads((tmp_path / "a" / "prediction.json").read_text())
    for out in (tmp_path / "b" / "one", tmp_path / "c"):
        if not out.exists():
            continue
        numbers = ["probability", "attention"]
        np.testing.assert_allclose(first[numbers], pd.read_csv(out / "tiles.csv")[numbers], atol=1e-5)
        theirs = json.loads((out / "prediction.json").read_text())
        assert same(mine["probabilities"], theirs["probabilities"]) and same(mine["evidence"], theirs["evidence"])


def test_what_a_user_can_get_wrong(
    models: Models, served: Served, folder: Path, tmp_path: Path, inside: Command
) -> None:
    photo, out = str(folder / "photo.jpg"), str(tmp_path / "out")

    def refused(*arguments: str) -> str:
        done = inside("predict", "--out", out, *arguments)
        assert done.code == 2 and "Traceback" not in done.errors, done
        return done.errors

    with rest_server(served) as rest:
        far = ("--server", rest, "--input", photo)
        assert "no such model 'nobody' there" in refused(*far, "--model", "nobody")
        assert "the model's name on the server" in refused(*far, "--model", str(models.files["zoome"]))
        assert "judges one slide, not images" in refused(*far, "--model", "biopsy")
        assert "is cut off" in refused("--server", rest, "--model", "zoome", "--input", str(folder / "cut.jpg"))
        assert "--mpp: does not belong" in refused(*far, "--model", "zoome", "--mpp", "0.5")
        assert "--timeout 0" in refused(*far, "--model", "zoome", "--timeout", "0")
    # Its port is free again: nobody listens.
    assert "no answer after 1 try" in refused(*far, "--model", "zoome", "--retries", "0")
    assert "grpc://127.0.0.1:9" in refused(
        "--server", "grpc://127.0.0.1:9", "--input", photo, "--model", "zoome", "--retries", "0", "--timeout", "5"
    )
    assert "no exported model" in refused("--model", str(folder), "--input", photo)
    assert "no such model file" in refused("--model", "nothing.keras", "--input", photo)


def test_a_busy_and_a_slow_server(served: Served) -> None:
    faults = [Fault(503, "busy"), Fault(503, "busy")]

    def busy() -> None:
        if faults:
            raise faults.pop()

    served.fault = busy
    with rest_server(served) as address:
        client = Client(find_transport(address, "seven"), ClientSettings(), sleep=lambda _: None)
        assert client.card()["name"] == "seven" and not faults
        gate = threading.Event()
        served.fault = lambda: bool(gate.wait(5))
        client = Client(find_transport(address, "seven"), ClientSettings(timeout=0.2, retries=0))
        started = time.monotonic()
        with pytest.raises(InputError, match=r"no answer after 1 try .*--timeout 0.2 long enough"):
            client.card()
        assert time.monotonic() - started < 3
        gate.set()


def test_the_documented_calls_work_as_written(models: Models, folder: Path, served: Served, tmp_path: Path) -> None:
    text = (models.serving / "CALLS-zoome.md").read_text()
    (tmp_path / "lesion.jpg").write_bytes((folder / "photo.jpg").read_bytes())
    blocks = text.split("```\n")
    with rest_server(served) as address:
        script = blocks[1].replace("http://127.0.0.1:8501", address)
        done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(part) for part in done.stdout.replace("}{", "}\n{").splitlines())
    assert first["outputs"]["classes"] == second["outputs"]["classes"] == [["benign", "melanoma"]]
    assert first["outputs"]["probabilities"] != second["outputs"]["probabilities"]
    pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")
    with grpc_server(served) as address:
        code = blocks[3].replace("127.0.0.1:8500", address).replace("lesion.jpg", str(tmp_path / "lesion.jpg"))
        found: dict[str, Any] = {}
        exec(code, found)
    near = found["tf"].make_ndarray(found["answer"].outputs["probabilities"])
    np.testing.assert_allclose(near, first["outputs"]["probabilities"], atol=1e-6)


def test_rows_are_answered_as_columns_are(served: Served, folder: Path) -> None:
    import base64
    import urllib.request

    encoded = {"b64": base64.b64encode((folder / "photo.jpg").read_bytes()).decode()}
    with rest_server(served) as address:
        answers = []
        for body in ({"instances": [{"image_bytes": encoded}] * 2}, {"inputs": {"image_bytes": [encoded] * 2}}):
            request = urllib.request.Request(f"{address}/v1/models/seven:predict", json.dumps(body).encode())
            with urllib.request.urlopen(request) as response:
                answers.append(json.loads(response.read()))
    rows, columns = answers[0]["predictions"], answers[1]["outputs"]
    assert {key: [row[key] for row in rows] for key in rows[0]} == columns
