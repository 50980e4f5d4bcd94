"""Damaged models, records of runs and stored tiles, and requests to graphs and servers; see `tests.fuzz.kinds`."""

import base64
import contextlib
import itertools
import json
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.pipelines.tile_batches import predict_batches
from melano_tf.pipelines.tile_store import write_cohort
from melano_tf.runs import journal
from melano_tf.runs.file_integrity import faults
from melano_tf.serving.client import Client, ClientSettings, FolderTransport, find_transport
from melano_tf.serving.export import export_model
from melano_tf.serving.model_finding import file_card
from melano_tf.training import tensorflow_runtime
from tests.fuzz import mutations
from tests.fuzz.kinds import GRID, READ, REFUSED, STORE, Kind, command, told, whole_pictures
from tests.pipelines.small_slides import MPP, write_slide_file
from tests.reports.made_run import made_run, of_its_plan, predictions
from tests.reports.test_audit import OTHERS, STEM, record
from tests.runs.test_journal import session
from tests.serving import small_models
from tests.serving.standin import Served, odd_server, respond
from tests.serving.test_unlike import familiar, smooth

JSON_OF_RUNS = ("run.json", "made.json", "inputs.json", "steps/images.json", f"models/{STEM}.json")
TABLES_OF_RUNS = (f"predictions/{STEM}.parquet", f"audit/{STEM}.parquet", f"history/{STEM}.csv")


@dataclass(frozen=True)
class Records:
    """Whole files: a run that can be reported, one that can be continued, a store of tiles, a model, an image."""

    report: Path
    resume: Path
    tiles: Path
    manifest: pd.DataFrame
    model: Path
    image: Path


def in_this_process() -> None:
    """Threads cannot be set once TensorFlow is at work."""
    tensorflow_runtime.configure = lambda threads, *_, **__: threads or 1


def whole_run(folder: Path) -> Path:
    """A finished run, made by hand."""
    made_run(folder, predictions([f"I{n}" for n in range(6)]))
    for name in ("figures", "maps", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)  # what is drawn costs time, and no record
    record(folder, STEM, OTHERS)
    return of_its_plan(folder)


def whole_model(folder: Path) -> Path:
    """A classifier of images with a description of what it was trained on."""
    path = small_models.zoome_model(folder)
    px = small_models.INPUT_PX
    known, held = (smooth(30, px, seed).astype(np.float32) for seed in (1, 2))
    familiar(keras.saving.load_model(path), known, held, path)
    return path


def whole_records(folder: Path) -> Records:
    """All of them."""
    in_this_process()
    folder.mkdir(parents=True, exist_ok=True)
    session(folder / "resume", 0, False)
    rows = [
        {"slide_id": name, "path": str(write_slide_file(folder / f"{name}.tiff", seed)), "patient_id": name}
        for seed, name in enumerate("ab")
    ]
    manifest = pd.DataFrame(rows).assign(label="benign", annotation=None, mpp=MPP)
    (folder / "tiles").mkdir()
    journal.begin(folder / "tiles")
    write_cohort(manifest, GRID, STORE, folder / "tiles", workers=0)
    image = folder / "lesion.png"
    image.write_bytes(whole_pictures(folder)[-2])
    return Records(
        whole_run(folder / "report"), folder / "resume", folder / "tiles", manifest, whole_model(folder), image
    )


def judge_record(whole: Records, draw: random.Random, folder: Path) -> str:
    """One damaged file, and what reads it."""
    return draw.choice((judge_report, judge_resumed, judge_tiles, judge_model, judge_model))(whole, draw, folder)


def judge_report(whole: Records, draw: random.Random, folder: Path) -> str:
    """A record of a finished run: audited, reported, compared, examined."""
    out = Path(shutil.copytree(whole.report, folder / "run"))
    name = draw.choice((*JSON_OF_RUNS, *TABLES_OF_RUNS))
    damage = mutations.damaged_json if name in JSON_OF_RUNS else mutations.torn
    (out / name).write_bytes(damage((out / name).read_bytes(), draw))
    asked = draw.choice(("audit", "report", "compare", "faults"))
    if asked == "compare":
        return command("compare", out, whole.report, "--out", folder / "compared")
    return told(lambda: faults(out)) if asked == "faults" else command(asked, out)


def judge_resumed(whole: Records, draw: random.Random, folder: Path) -> str:
    """A record of a run, whose command is given again."""
    out = Path(shutil.copytree(whole.resume, folder / "run"))
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    path = draw.choice(files)
    damage = mutations.damaged_json if path.suffix == ".json" else mutations.torn
    path.write_bytes(damage(path.read_bytes(), draw))
    return told(lambda: [session(out, seed, False) for seed in (0, 1)])


def judge_tiles(whole: Records, draw: random.Random, folder: Path) -> str:
    """A file of stored tiles: the slides are cut again where that shows, else the tiles are read."""
    out = Path(shutil.copytree(whole.tiles, folder / "tiles"))
    path = draw.choice([path for path in sorted(out.iterdir()) if path.name != journal.NAME])
    damage = mutations.damaged_json if path.suffix == ".json" else mutations.torn
    content = path.read_bytes()
    tiles = pd.read_parquet(out / "tiles.parquet")
    path.write_bytes(damage(content, draw))

    def read() -> None:
        nonlocal tiles
        if draw.random() < 0.5:
            tiles, _ = write_cohort(whole.manifest, GRID, STORE, out, workers=0)
        assert sum(len(part["x"]) for part in predict_batches(tiles, out, 32, 8)) == len(tiles)

    return told(read)


def judge_model(whole: Records, draw: random.Random, folder: Path) -> str:
    """A model's file, its sidecar or the description of its training: asked for an image."""
    model = folder / whole.model.name
    for path in whole.model.parent.glob(f"{whole.model.stem}.*"):
        shutil.copy(path, folder / path.name)
    path = draw.choice(sorted(folder.iterdir()))
    damage = mutations.damaged_json if path.suffix == ".json" else mutations.odd_archive
    path.write_bytes(damage(path.read_bytes(), draw))
    out = folder / "answer"
    return command("predict", "--model", model, "--input", whole.image, "--out", out)


@dataclass(frozen=True)
class Asked:
    """Exported models, what serves them, and pictures to ask about."""

    served: Served
    graphs: Mapping[str, FolderTransport]
    pictures: list[bytes]
    image: Path


def whole_requests(folder: Path) -> Asked:
    """A model with metadata and one without, exported."""
    in_this_process()
    makers: dict[str, Callable[[Path], Path]] = {"zoome": small_models.zoome_model, "seven": small_models.seven_model}
    graphs = {
        name: FolderTransport(export_model(file_card(make(folder / "models")), folder / "serving", name).folder)
        for name, make in makers.items()
    }
    pictures = whole_pictures(folder)
    (folder / "lesion.png").write_bytes(pictures[-2])
    return Asked(Served(folder / "serving"), graphs, pictures, folder / "lesion.png")


def judge_request(whole: Asked, draw: random.Random, folder: Path) -> str:
    """A request to the graph with something odd in it, or a good one to an odd server."""
    return draw.choice((judge_graph, judge_server))(whole, draw, folder)


ODD_VALUES: tuple[Any, ...] = (
    *(float("nan"), -1.0, -2.0, 1e38, float("inf"), "", "unknown", "男", "x" * 300, b"\xff\xfe", 3, None, [1.0], True),
)


def judge_graph(whole: Asked, draw: random.Random, folder: Path) -> str:
    """Pictures and metadata to the exported graph: an answer or a reason for each, or one line."""
    name = draw.choice(sorted(whole.graphs))
    client = Client(whole.graphs[name], ClientSettings(chunk=draw.choice((1, 3))))
    count = draw.randint(1, 3)
    columns: dict[str, list[Any]] = {
        "image_bytes": [mutations.odd_picture(draw.choice(whole.pictures), draw) for _ in range(count)]
    }
    signature = "serving_default"
    if name == "zoome":
        columns |= {"age": [50.0] * count, "sex": ["male"] * count, "site": ["torso"] * count}
        if draw.random() < 0.5:
            columns[draw.choice(("age", "sex", "site"))][0] = draw.choice(ODD_VALUES)
        if draw.random() < 0.1:
            del columns["age"]
        if draw.random() < 0.1:
            signature = draw.choice(("image_only", "embedding", "none"))
    if draw.random() < 0.1:
        columns["image_bytes"][0] = draw.choice(ODD_VALUES)
    rows: list[Any] = []

    def ask() -> None:
        rows.extend(client.ask_each(signature, columns))
        assert all(isinstance(row, str) or np.isfinite(row["probabilities"]).all() for row in rows)

    outcome = told(ask)
    assert outcome == REFUSED or len(rows) == count
    return REFUSED if outcome == REFUSED or any(isinstance(row, str) for row in rows) else READ


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def judge_server(whole: Asked, draw: random.Random, folder: Path) -> str:
    """`predict --server` of a server whose answers are bent, torn, slow, elsewhere or of another status."""
    name, out, place = draw.choice(sorted(whole.graphs)), folder / "answer", itertools.count()
    # The card is asked for twice: the newest version's, and that of the version which it names.
    odd_at = draw.choice(((0,), (1,), (0, 1), (2,), (2,), (2,)))
    seed = draw.random()  # both cards are bent alike, else the second is refused for another one's

    def answer(connection: socket.socket) -> None:
        number = min(next(place), 2)
        signature = "card" if number < 2 else "serving_default"
        given: dict[str, Any] = {"ask": [0]}
        if signature != "card":
            given = {"image_bytes": [{"b64": base64_of(whole.pictures[-2])}]}
            given |= {"age": [50.0], "sex": ["male"], "site": ["torso"]} if name == "zoome" else {}
        body = json.dumps({"signature_name": signature, "inputs": given}).encode()
        content = respond(whole.served, f"/v1/models/{name}:predict", body)
        bent = number in odd_at
        for part in odd_answer(content, random.Random(seed)) if bent else [sent(json.dumps(content).encode())]:
            connection.sendall(part)

    settings = ClientSettings(timeout=3.0, retries=1)
    with odd_server(answer) as (address, _):
        if draw.random() < 0.2:
            client = Client(find_transport(address, name), settings, sleep=lambda _: None)
            return told(client.card)
        more = ("--timeout", "3", "--retries", "0")
        return command("predict", "--server", address, "--model", name, "--input", whole.image, "--out", out, *more)


def base64_of(content: bytes) -> str:
    """Bytes as JSON holds them."""

    return base64.b64encode(content).decode()


def sent(body: bytes, code: str = "200 OK", length: int | None = None) -> bytes:
    """A whole answer over HTTP."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode() + body


def bent_answer(content: dict[str, Any], draw: random.Random) -> Any:
    """An answer with one node replaced; also within the card, which is JSON in JSON."""
    outputs = content["outputs"]
    with contextlib.suppress(TypeError, ValueError, IndexError, KeyError):
        if isinstance(outputs, list) and draw.random() < 0.8:
            return {"outputs": [json.dumps(mutations.bent(json.loads(outputs[0]), draw))]}
    return mutations.bent(content, draw)


def odd_answer(content: dict[str, Any], draw: random.Random) -> Iterator[bytes]:
    """What an odd server sends, piece by piece."""
    whole = sent(json.dumps(content).encode())
    kind = draw.randrange(8)
    if kind < 4:
        yield sent(json.dumps(bent_answer(content, draw)).encode())
    elif kind == 4:
        yield mutations.torn(whole, draw)
    elif kind == 5:
        codes = ("400 Bad", "404 None", "500 Broken", "503 Busy", "301 Gone", "204 Nothing", "999 Odd", "abc")
        yield sent(b'{"error": "no\\nreason"}', draw.choice(codes))
    elif kind == 6:
        yield whole[: draw.randrange(len(whole))]
        for _ in range(20):
            time.sleep(0.2)
            yield b" "
    else:
        yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + draw.choice((b"zz\r\n", b"ffffffffff\r\n{", b"-5\r\nab"))


MODELS: dict[str, Kind] = {
    "records": Kind(200, whole_records, judge_record),
    "requests": Kind(300, whole_requests, judge_request),
}
