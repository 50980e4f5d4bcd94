"""Slides and blocks of images handed to other processes: the same bytes as from one, whatever dies there."""

import functools
import io
import json
import pickle
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import distributed
import pandas as pd
import pytest

from melano_tf import __version__
from melano_tf.errors import InputError
from melano_tf.papers import dask_cluster, dask_items, dask_jobs
from melano_tf.papers.dask_items import far_engine
from melano_tf.papers.run_settings import Running
from melano_tf.papers.shell import Stopped
from melano_tf.pipelines import image_cache
from melano_tf.pipelines.processes import WorkerDied
from melano_tf.runs.folder_lock import FolderLock
from tests import forked
from tests.papers.tiny import TINY
from tests.papers.zoome_run import ZOOME
from tests.pipelines import process_work

SETTINGS = SimpleNamespace(out="run", deterministic=True)
NAME = dask_jobs.run_name(SETTINGS.out)


@pytest.fixture(scope="module")
def cluster():
    """Two processes that are there already; whoever worked here last left them as they are."""
    with forked.workers(), dask_cluster._local(Running(jobs=2)) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def hands(cluster):
    """A client of the cluster, whose processes can work."""
    with distributed.Client(cluster) as client:
        client.register_plugin(dask_jobs.Hands(None, SETTINGS, 1))
        yield client


def without_times(path: Path) -> bytes:
    """A file's content, without how long a slide took."""
    if path.name == "slides.csv":
        return pd.read_csv(io.BytesIO(path.read_bytes())).drop(columns="seconds").to_csv().encode()
    if path.suffix == ".json":
        return json.dumps({**json.loads(path.read_text()), "seconds": 0}).encode()
    return path.read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: without_times(path) for path in folder.iterdir()}


def done_there(client: distributed.Client, name: str) -> int:
    """How many pieces of work of that name the cluster has done."""
    story = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.transition_log))
    keys = {key for key, _, end, *_ in story if end == "memory" and str(key).startswith(name)}
    return len(keys)


SMALL = ("--phantom.patients", "10", "--phantom.width-um", "500", "550", "--phantom.height-um", "400", "450")


@pytest.mark.parametrize(
    "arguments, made, file, task",
    [
        (("spitzoid", *TINY, *SMALL, "--steps", "tiles"), "tiles", "*.tfrecord", "cut"),
        (("zoome", *ZOOME, "--steps", "images"), "images", "*.npy", "write_shard"),
    ],
)
def test_slides_and_images_are_those_of_one_process(
    inside, cluster, tmp_path, monkeypatch, arguments, made, file, task
):
    monkeypatch.setattr(image_cache, "SHARD", 40)
    monkeypatch.chdir(tmp_path)  # to which relative paths belong, also elsewhere
    far = inside(*arguments, "--out", "far", "--scheduler", cluster)
    assert far.code == 0, far.errors
    there = contents(tmp_path / "far" / made)
    with distributed.Client(cluster) as client:
        assert done_there(client, task) == len(list(Path("far", made).glob(file))) > 2
    shutil.rmtree(Path("far", made))
    again = inside(*arguments, "--out", "far")  # of the same phantoms
    assert again.code == 0 and "side by side" not in again.shown, again.errors
    assert contents(tmp_path / "far" / made) == there


def test_a_process_that_dies_twice_costs_its_item_and_no_other(hands, tmp_path):
    engine = far_engine(hands, NAME, 3)
    items = [(str(tmp_path / name), times) for name, times in (("a", 0), ("b", 2), ("c", 0), ("d", 0))]
    assert engine.threads(2) == [3, 3]
    found = dict(engine.spread(process_work.dies_so_often, items))
    assert found[1] == WorkerDied() and (tmp_path / "b").read_text().count("begun") == 2
    assert set(found) == {0, 1, 2, 3} and all(isinstance(found[place], int) for place in (0, 2, 3))
    with pytest.raises(ValueError, match="no such item"):
        list(engine.spread(process_work.work, [1, 99, 2]))


def test_workers_that_do_not_see_the_runs_folder_are_refused(hands, tmp_path):
    lock = FolderLock(tmp_path)
    dask_cluster._check_folder(hands, tmp_path)
    lock.release()

    class Elsewhere:
        """Whose one worker sees another machine's disk."""

        def run(self, function, folder):
            return {"tcp://10.0.0.7:1": function(tmp_path / "not there")}

    lock = FolderLock(tmp_path)
    with pytest.raises(InputError, match=r"worker tcp://10\.0\.0\.7:1: does not see .*share under the same path"):
        dask_cluster._check_folder(Elsewhere(), tmp_path)
    lock.release()


def test_a_worker_that_comes_late_and_does_not_see_the_runs_folder_is_refused(tmp_path, monkeypatch):
    """SLURM starts one at once, and the others when the run has long begun."""
    monkeypatch.setattr(dask_jobs, "configure", lambda *_, **__: 1)
    out = tmp_path / "run"
    out.mkdir()
    lock = FolderLock(out)
    sent = pickle.dumps(dask_jobs.Hands(None, SimpleNamespace(out=out, deterministic=True), 1))
    lock.release()
    shutil.rmtree(out)
    late, begun = pickle.loads(sent), []
    late.worker = SimpleNamespace(address="tcp://10.0.0.7:1")
    line = f"worker tcp://10.0.0.7:1: does not see {out}, which all must share under the same path"
    assert late.do(None).wrong == line
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(plugins={"toy": late}))
    with pytest.raises(InputError) as refused:
        dask_items._do("toy", begun.append, "slide", "mark")
    assert str(refused.value) == line and not begun and not out.exists()


def test_a_worker_that_comes_late_with_another_version_is_refused(hands):
    other = dask_jobs.Hands(None, SETTINGS, 1)
    other.version = "0.1.9"  # as a command of that version sends itself
    hands.register_plugin(other)
    words = rf"^worker tcp://.*: has melano_tf {__version__}, and this is 0\.1\.9; install the same$"
    with pytest.raises(InputError, match=words):
        list(far_engine(hands, NAME, 1).spread(process_work.work, [1, 2]))
    assert "and this is 0.1.9" in hands.submit(dask_jobs.do_far, NAME, None, pure=False).result().wrong


def test_a_worker_that_cannot_work_as_asked_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hands = dask_jobs.Hands(None, SETTINGS, 1)
    hands.worker = SimpleNamespace(address="tcp://10.0.0.7:1")

    def other_threads(*_, **__):
        raise InputError("--threads 1: TensorFlow is at work in this process already")

    monkeypatch.setattr(dask_jobs, "configure", other_threads)
    words = "--threads 1: TensorFlow is at work in this process already"
    assert hands.do(None).wrong == f"worker tcp://10.0.0.7:1: {words}"
    hands.folder = tmp_path / "elsewhere"
    assert f"{hands.folder}: No such file or directory; workers must see it" in hands.do(None).wrong


def test_a_step_that_nobody_waits_for_any_more_ends(hands, tmp_path):
    """A training whose command was interrupted leaves its files to the one that goes on with it."""

    def trains(said):
        worker = distributed.get_worker()
        show = functools.partial(worker.plugins[NAME]._show, "toy", worker.get_current_task())
        try:
            while True:
                show("goes on")
                said.touch()
                time.sleep(0.05)
        except Stopped as reason:
            said.with_suffix(".end").write_text(str(reason))

    said = tmp_path / "said"
    future = hands.submit(trains, said, pure=False)
    soon(said.exists)
    hands.cancel([future])
    soon(lambda: said.with_suffix(".end").exists() and said.with_suffix(".end").read_text())
    assert "the command that asked for it has ended" in said.with_suffix(".end").read_text()


def soon(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_whose_processes_are_all_gone_ends_with_one_line(monkeypatch):
    monkeypatch.setattr(dask_cluster, "CHECK_S", 0.1)
    monkeypatch.setattr(dask_cluster, "LOST_S", 0.3)
    alone = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": None}}
    with (
        distributed.SpecCluster(workers={}, scheduler=alone, silence_logs=dask_cluster.SILENT) as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(Stopped, match="all processes are gone"),
    ):
        dask_cluster.wait_for_one(client, [client.submit(abs, -3)])


def test_a_scheduler_that_is_gone_is_one_line():
    alone = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": None}}
    with distributed.SpecCluster(workers={}, scheduler=alone, silence_logs=dask_cluster.SILENT) as cluster:
        address = cluster.scheduler_address
        client = distributed.Client(address)
        future = client.submit(abs, -3)
        ends = threading.Timer(0.3, cluster.close)
        ends.start()
        with pytest.raises(Stopped, match=f"--scheduler {address}: does not answer any more"):  # noqa: SIM117
            with dask_cluster.loss_named(address):
                distributed.wait([future])
        ends.join()
        client.close()
