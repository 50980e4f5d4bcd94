"""The atlas' server without a browser: who may ask, what is answered, what never is."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("bokeh", reason="needs Bokeh: pip install 'melano_tf[view]'")
from bokeh.server.util import check_allowlist
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

from melano_tf import run
from melano_tf.errors import InputError
from melano_tf.runs.files_of_plan import plan_key
from melano_tf.runs.predictions import predictions, write_predictions
from melano_tf.view.case_selection import with_answers
from melano_tf.view.pages.gallery import cells, span
from melano_tf.view.server import address, is_this_machine, make_server, origins
from melano_tf.view.settings import ViewSettings
from tests.pipelines.small_slides import picture, write_annotation, write_slide_file
from tests.view.browser import Running

CHECKOUT = Path(__file__).parents[2]
SETTINGS = {"slides": None, "store": {"mask_mpp": 4.0, "mask_headroom": 60.0}, "out": "run", "seed": 0}


def small_run(folder: Path) -> Path:
    """A run of three small slides; the third one's file is no slide."""
    drawn = folder / "phantoms" / "key"
    drawn.mkdir(parents=True)
    for number in (1, 2):
        write_slide_file(drawn / f"P{number}.tiff", number)
    (drawn / "P3.tiff").write_bytes(b"II*\0 this is no slide")
    write_annotation(drawn / "P1.geojson", [(300, 300), (600, 300), (600, 500), (300, 500)])
    rows = [
        f"P{n},P{n}.tiff,Q{n},{'malignant' if n == 1 else 'benign'},{'P1.geojson' if n == 1 else ''}" for n in (1, 2, 3)
    ]
    (drawn / "manifest.csv").write_text("\n".join(["slide_id,path,patient_id,label,annotation", *rows]) + "\n")
    plan = {"settings": "s", "data": "d"}
    record = {"recipe": "spitzoid", "settings": SETTINGS, "plan": plan, "split": {"test": ["Q1", "Q2"], "folds": []}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "predictions").mkdir()
    judged = {"case": ["P1", "P2"], "group": ["Q1", "Q2"], "part": "test", "target": [1, 0]}
    rows_of = pd.DataFrame({**judged, "tiles": [3, 4], "fallback": [False, True]})
    for name in ("target", "target-old-cohort-1"):
        write_predictions(folder / "predictions" / f"{name}.csv", predictions(rows_of, np.array([0.9, 0.6])))
    made = {"predictions/target.csv": {"plan": plan_key(plan), "step": "target", "key": "k"}}
    made["predictions/target-old-cohort-1.csv"] = {"plan": "another", "step": "old", "key": "k"}
    (folder / "made.json").write_text(json.dumps(made))
    (folder / "secret.txt").write_text("not for anybody")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("view") / "run")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    one = Running([folder])
    yield one
    one.stop(expected=("Refusing websocket", "/cases/ws"))  # Bokeh says aloud what it refuses


def test_nothing_is_answered_without_the_token(running: Running) -> None:
    token = running.site.prefix.strip("/")
    assert len(token) >= 32
    assert running.get(f"/{token}/cases?run=0")[0] == 200
    for path in (
        "/",
        "/cases?run=0",
        "/tile/0/0/0/0/0.jpg",
        f"/{token[:-1]}/cases",
        f"/x{token}/cases",
        "/static/js/bokeh.js",
    ):
        assert running.get(path)[0] == 404, path
    other = make_server(ViewSettings((running.site.runs.folders[0],), browser=False))
    other[0].stop()
    assert other[1].prefix != running.site.prefix


def test_nothing_is_fetched_from_outside(running: Running) -> None:
    page = running.get(f"{running.site.prefix}/cases?run=0")[1].decode()
    addresses = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)""", page)
    assert addresses and all(one.startswith(("#", "/", f"{running.root}/")) for one in addresses), addresses
    assert "default-src 'self'" in page and "no-referrer" in page


def test_pictures_are_answered_and_paths_are_not(running: Running) -> None:
    prefix = running.site.prefix
    status, content, headers = running.get(f"{prefix}/tile/0/0/2/1/1.jpg")
    assert status == 200 and content[:2] == b"\xff\xd8" and headers["Content-Type"] == "image/jpeg"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert running.get(f"{prefix}/tile/0/0/2/9/9.jpg")[1][:4] == b"\x89PNG"
    for path in (
        "/tile/0/9/2/1/1.jpg",
        "/tile/9/0/2/1/1.jpg",
        "/tile/0/0/2/1/../../../../../secret.txt",
        "/tile/0/..%2f..%2fsecret.txt/2/1/1.jpg",
        "/picture/0/large/0.jpg",
        "/picture/0/..%2F..%2Fsecret.txt",
        "/static/../secret.txt",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/cutout/0/0/1/1/0.jpg",
        "/cutout/0/0/1/1/999999999.jpg",
        "/cutout/0/0/-1/1/10.jpg",
        "/run.json",
        "/notes/ada.csv",
    ):
        status, content, _ = running.get(prefix + path)
        assert status in (403, 404), path
        assert b"not for anybody" not in content and b"root:" not in content


def test_a_page_of_before_gets_no_picture_of_the_cases_that_a_run_has_now(tmp_path: Path) -> None:
    """A run made anew in its folder has other cases under its numbers: for who reads blind, and the browser's cache."""
    folder = small_run(tmp_path / "run")
    one = Running([folder])
    try:
        before = one.site.runs.get(0)
        old = one.site.tiles(before, 0).format(Z=2, X=1, Y=1)
        assert one.get(old)[0] == 200
        manifest = folder / "phantoms" / "key" / "manifest.csv"
        head, first, second, third = manifest.read_text().splitlines()
        manifest.write_text("\n".join([head, second, first, third]) + "\n")
        changed = (folder / "run.json").stat().st_mtime_ns + 10**9
        os.utime(folder / "run.json", ns=(changed, changed))
        now = one.site.runs.get(0)
        assert (before.cases["case"][0], now.cases["case"][0]) == ("P1", "P2")
        new = one.site.tiles(now, 0).format(Z=2, X=1, Y=1)
        assert new != old and one.get(new)[0] == 200
        status, _, headers = one.get(old)
        assert (status, headers["Cache-Control"]) == (404, "no-store")
        for run_then, wanted in ((before, 404), (now, 200)):
            assert one.get(one.site.overview(run_then, 0))[0] == wanted
            assert one.get(one.site.cutout(run_then, 0, (0, 0, 99, 99)))[0] == wanted
    finally:
        one.stop()


def test_a_damaged_slide_is_said_in_the_tiles_place(running: Running, folder: Path) -> None:
    prefix = running.site.prefix
    status, content, headers = running.get(f"{prefix}/tile/0/2/0/0/0.jpg")
    assert status == 200 and headers["X-Unreadable"] == "1" and content[:2] == b"\xff\xd8"
    assert (
        b"cannot be shown" in running.get(f"{prefix}/slide?run=0&case=2")[1]
        or running.get(f"{prefix}/slide?run=0&case=2")[0] == 200
    )
    for query in ("run=7", "run=0&case=99", "run=x&case=y", "run=0&case=nan", "run=-1", "run=0&case=1e300"):
        assert running.get(f"{prefix}/slide?{query}")[0] == 200, query
    assert running.get(f"{prefix}/tile/0/0/0/0/0.jpg")[0] == 200


def websocket(running: Running, origin: str) -> int:
    """The answer to a page of another address that wants to talk."""
    from tornado.httpclient import HTTPClientError, HTTPRequest

    address = f"ws://127.0.0.1:{running.server.port}{running.site.prefix}/cases/ws"
    request = HTTPRequest(address, headers={"Origin": origin, "Sec-WebSocket-Protocol": "bokeh, token"})

    async def ask() -> int:
        try:
            (await websocket_connect(request)).close()
        except HTTPClientError as error:
            return error.code
        return 101

    return IOLoop(make_current=False).run_sync(ask)


def test_another_site_cannot_talk_to_it(running: Running) -> None:
    port = running.server.port
    for origin in (
        "https://evil.example",
        f"http://evil.example:{port}",
        "http://127.0.0.1:1",
        "null",
        "http://127.0.0.1",
    ):
        assert websocket(running, origin) == 403, origin
    for origin in (f"http://127.0.0.1:{port}", f"http://localhost:{port}"):
        assert websocket(running, origin) != 403, origin


def test_only_this_machine_unless_it_is_said(running: Running, folder: Path) -> None:
    port = running.server.port
    assert all(is_this_machine(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"))
    assert not any(is_this_machine(host) for host in ("0.0.0.0", "192.168.1.4", "::", "example.org"))
    assert origins("127.0.0.1", 5) == ["127.0.0.1:5", "localhost:5"]
    assert origins("192.168.1.4", 5) == ["192.168.1.4:5"]
    assert origins("Atlas.example.org", 5) == ["atlas.example.org:5"]  # as browsers send it
    with socket.socket() as other:
        other.settimeout(2)
        mine = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
        outward = [one for one in mine if not one.startswith("127.")]
        if outward:
            assert other.connect_ex((str(outward[0]), int(port or 0))) != 0
    shown = address(ViewSettings((folder,)), running.server, running.site)
    assert shown == f"http://127.0.0.1:{port}{running.site.prefix}/cases?run=0"


@pytest.mark.parametrize(("host", "name"), [("::1", "[::1]"), ("FD00:0::2", "[fd00::2]"), ("::", "[::1]")])
def test_ipv6_stands_in_brackets_in_addresses(running: Running, folder: Path, host: str, name: str) -> None:
    assert check_allowlist(f"{name}:5", origins(host, 5))
    assert not check_allowlist(f"{name}:6", origins(host, 5))
    shown = address(ViewSettings((folder,), host=host), running.server, running.site)
    assert shown == f"http://{name}:{running.server.port}{running.site.prefix}/cases?run=0"


def test_a_page_loads_the_scripts_that_it_needs_and_a_slide_its_first_tiles(running: Running) -> None:
    prefix = running.site.prefix
    pages = {
        name: running.get(f"{prefix}/{name}")[1].decode()
        for name in ("cases?run=0", "slide?run=0&case=1", "blind?run=0")
    }
    scripts = {name: set(re.findall(r"static/js/([a-z-]+)\.min\.js", page)) for name, page in pages.items()}
    assert scripts["cases?run=0"] == {"bokeh", "bokeh-widgets", "bokeh-tables"}
    assert scripts["slide?run=0&case=1"] == scripts["blind?run=0"] == {"bokeh", "bokeh-widgets"}
    page = pages["slide?run=0&case=1"]
    early = re.findall(r'<image [^>]*href="([^"]+)"', page)
    of = f"?of={running.site.runs.last(0).stamp}"
    assert early == [f"{prefix}/tile/0/1/1/{place}.jpg{of}" for place in ("0/0", "1/0", "0/1", "1/1")]
    assert (
        b"<image" not in running.get(f"{prefix}/slide?run=0&case=1&beside=0:no+map")[1]
    )  # elsewhere, and half as wide
    assert all("defer" in tag for tag in re.findall(r"<script[^>]*static/js[^>]*>", page))  # or it would wait for them
    assert [running.get(address)[1][:2] for address in early] == [b"\xff\xd8"] * 2 + [b"\x89P"] * 2


def test_a_picture_asked_for_twice_is_made_once(running: Running) -> None:
    begun, go = [], threading.Event()

    def make() -> bytes:
        begun.append(0)
        go.wait(20)
        return b"picture"

    asked = [running.site.begin("twice", make) for _ in range(3)]
    go.set()
    assert [one.result(20) for one in asked] == [b"picture"] * 3 and len(begun) == 1
    assert running.site.begin("twice", make).result(20) == b"picture" and len(begun) == 1


def test_the_overview_is_the_whole_slide(running: Running) -> None:
    content = running.get(f"{running.site.prefix}/overview/0/0.jpg")[1]
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert max(found.shape[:2]) >= 300 and found.shape[1] * 768 == found.shape[0] * 1024
    whole = cv2.resize(picture(1), found.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - whole).mean() < 4 < np.abs(found[:, ::-1].astype(int) - whole).mean()


def test_a_slide_waits_for_no_small_picture_of_another_page(running: Running) -> None:
    go = threading.Event()
    slow = [running.site.begin(("slow", number), lambda: b"small" if go.wait(20) else None) for number in range(6)]
    assert running.get(f"{running.site.prefix}/tile/0/1/2/0/0.jpg")[0] == 200
    assert not any(one.done() for one in slow)
    go.set()
    assert all(one.result(20) == b"small" for one in slow)


def test_what_only_some_pages_need_is_not_loaded_before() -> None:
    heavy = ("tensorflow", "sklearn", "scipy.stats", "tifffile", "matplotlib.figure")
    code = f"import sys, melano_tf.view.server; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_picture_waits_for_no_reading_of_a_run_that_goes_on(running: Running, folder: Path, monkeypatch) -> None:
    shown = running.site.runs.get(0)
    made = json.loads((folder / "made.json").read_text())
    (folder / "made.json").write_text(json.dumps({**made, "tables/y.csv": {"plan": "p", "step": None, "sha256": "0"}}))
    monkeypatch.setattr("melano_tf.view.run_cases.read_run", lambda *_: pytest.fail("read for a picture"))
    assert running.get(f"{running.site.prefix}/tile/0/0/1/0/0.jpg")[0] == 200
    assert running.site.runs.last(0) is shown


def test_the_answers_on_one_case_are_a_row_of_all(running: Running) -> None:
    seen = running.site.runs.get(0)
    for model in (seen.models["target"], None):
        whole = with_answers(seen, model)
        for place in whole.index:
            pd.testing.assert_series_equal(with_answers(seen, model, place).loc[place], whole.loc[place])


def test_a_gallery_sends_what_differs_from_image_to_image() -> None:
    rows = pd.DataFrame(
        {
            "label": ["nevus", "melanoma", "nevus"] * 3,
            "called_name": ["nevus", "nevus", ""] * 3,
            "called": [0, 0, np.nan] * 3,
            "p": [0.25, 0.4, np.nan] * 3,  # of a melanoma
            "judged": [True, True, False] * 3,
            "right": [True, False, False] * 3,
        },
        index=[7, 3, 25_330, 0, 1, 2, 4, 5, 6],
    )
    found = cells(rows, binary=True)
    assert [found[f"n{place}"].tolist() for place in (0, 2, 7)] == [[7, 6], [25_330, -1], [5, -1]]
    assert [found[f"s{place}"].tolist() for place in (0, 1, 2)] == [[1, 0], [2, 0], [0, 0]]
    assert [found[f"w{place}"][0] for place in range(3)] == [
        "nevus · nevus 0.75",
        "melanoma · nevus 0.60",
        "nevus · not judged",
    ]
    assert cells(rows, binary=False)["w0"][0] == "nevus · nevus 0.25"  # of several classes p is the called one's
    assert all(len(values) == 0 for values in cells(rows.iloc[:0], binary=True).values())


def test_two_shares_of_an_address_are_checked() -> None:
    assert span("0.25,0.9") == (0.25, 0.9)
    for words in ("", "0.9,0.2", "nan,1", "0.1", "0,2", "a,b", "0,0.5,1"):
        assert span(words) == (0.0, 1.0), words


def test_what_is_older_is_not_shown(running: Running) -> None:
    seen = running.site.runs.get(0)
    assert list(seen.models) == ["target"]
    assert seen.standing.older() == ["predictions/target-old-cohort-1.csv"]
    assert seen.cases["part"].tolist() == ["test", "test", ""]
    assert seen.models["target"].frame["fallback"].tolist() == [False, True]


def test_a_run_that_goes_on_is_read_anew(running: Running, folder: Path) -> None:
    before = running.site.runs.get(0)
    assert running.site.runs.get(0) is before
    made = json.loads((folder / "made.json").read_text())
    (folder / "made.json").write_text(json.dumps({**made, "tables/x.csv": {"plan": "p", "step": None, "sha256": "0"}}))
    assert running.site.runs.get(0) is not before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name at least one run"),
        (("nowhere",), "no run is recorded there"),
        (("{run}", "{run}"), "named twice"),
        (("{run}", "--cache-mib", "0"), "--cache-mib"),
        (("{run}", "--port", "70000"), "--port"),
    ],
)
def test_bad_input_is_one_line(arguments, words, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = run.main(["view", *(part.format(run=folder) for part in arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    shown = capsys.readouterr()
    assert code == 2 and words in shown.err + shown.out


def test_a_port_in_use_is_said(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match="choose another --port"):
            make_server(ViewSettings((folder,), port=other.getsockname()[1]))


def test_without_bokeh_the_command_says_what_to_install(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run.main(["view", str(folder)]) == 2
    assert "melano_tf[view]" in capsys.readouterr().err


def test_a_run_half_finished_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    from melano_tf.view.run_cases import read_run

    (tmp_path / "run.json").write_text(json.dumps({"recipe": "zoome", "settings": {"table": [], "images": []}}))
    seen = read_run(tmp_path)
    assert seen.judges == "images" and not len(seen.cases) and "tables are not there yet" in seen.faults[0]
    assert not np.isnan(len(seen.models))
