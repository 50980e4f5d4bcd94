"""Steps handed to other processes: the same files as from one, whatever breaks there."""

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest

from melano_tf.errors import InputError, RunError, line_of
from melano_tf.papers import dask_cluster, dask_jobs, helping
from melano_tf.papers.helping import Asked, Helper, HelpingRun, check_same, look
from melano_tf.papers.initial_weights import weights_of
from melano_tf.papers.plan import Plan, Step
from melano_tf.papers.run_settings import Running
from melano_tf.papers.shell import LeftOut, Looked, Stopped, Work, act
from melano_tf.pipelines.decoding_threads import decoders
from melano_tf.runs.run_folder import Run
from melano_tf.runs.settings_digest import digest
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.steps import TrainingError
from tests import forked
from tests.papers.test_plan import toy as toy
from tests.papers.tiny import CHECKOUT, Finished


@pytest.fixture(autouse=True, scope="module")
def forked_workers():
    """Those of this process; of a command that is started anew they are started anew, too."""
    with forked.workers():
        yield


def files(run: Path) -> dict[str, str]:
    """What the steps wrote, and under which keys."""
    found = {path.name: path.read_text() for path in [*run.glob("counts/*"), *run.glob("tables/*.txt")]}
    return found | {path.stem: json.loads(path.read_text())["key"] for path in run.glob("steps/count/*.json")}


def test_two_processes_write_what_one_writes_and_the_run_goes_on_from_it(toy, tmp_path):
    assert toy().code == 0
    alone = files(tmp_path / "run")
    assert {"a.txt", "b.txt", "table1.txt", "a", "b"} == set(alone)
    far = toy("--out", str(tmp_path / "far"), "--jobs", "2")
    assert far.code == 0, far.errors
    assert files(tmp_path / "far") == alone
    assert "side by side: 2 processes on this machine" in far.shown and "did 2 steps" in far.shown
    assert far.shown.count("handed out") == 2 + 1 and ": ended, 3 of 3 handed out" in far.shown  # no bar in a file
    assert "  no z in the text" in far.shown.splitlines()  # left out there, said here
    assert {far.shown.count(line) for line in ("text      is read\n", "a: is counted\n", "b: is counted\n")} == {1}
    assert (tmp_path / "far" / "made.json").read_text().count('"step": "count/a"') == 1
    left = [{path.name for path in (tmp_path / run / "work").rglob("*")} for run in ("run", "far")]
    assert left[0] == left[1] and not {"a", "b"} & left[1]  # what is finished leaves nothing unfinished
    again = toy("--out", str(tmp_path / "far"), "--jobs", "2", "--only", "ab").shown
    assert "did 0 steps, kept 2" in again and "side by side" not in again  # a finished run starts no process


ANEW = """
import sys
sys.path.insert(0, sys.argv[1])
from melano_tf import run
from melano_tf.papers import PAPERS
PAPERS["toy"] = ("toy_paper", "counts letters")
sys.exit(run.main(["toy", *sys.argv[2:]]))
"""


def toy_anew(tmp_path: Path, *arguments: str) -> Finished:
    """The toy's command in a process of its own, as a user gives it: what its children say is on its stderr, too."""
    line = [sys.executable, "-c", ANEW, str(tmp_path / "elsewhere"), "--out", str(tmp_path / "run"), *arguments]
    loud = {name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY")}
    done = subprocess.run(line, capture_output=True, text=True, cwd=CHECKOUT, env=loud, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def test_a_process_that_dies_costs_its_step_and_a_failure_is_the_steps_alone(toy, tmp_path):
    dies = toy_anew(tmp_path, "--jobs", "2", "--fails", "dies")
    assert dies.code == 0, dies.errors
    assert dies.errors == ""  # what Dask and TensorFlow log there is not for the terminal
    assert set(files(tmp_path / "run")) == {"a.txt", "b.txt", "table1.txt", "a", "b"}
    broken = toy("--out", str(tmp_path / "other"), "--jobs", "2", "--fails", "a")
    assert broken.code == 1 and "1 of 3 trainings failed (a)" in broken.errors
    assert (tmp_path / "other" / "tables" / "table1.txt").read_text() == "{'b': '6'}"
    failed = (tmp_path / "other" / "failed" / "a.txt").read_text()
    assert "it broke" in failed and "in count" in failed  # the traceback of the process in which it broke


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("--jobs", "-1"), "--jobs -1: give how many"),
        (("--jobs", "2", "--gpus", "0", "1"), "--jobs and --gpus: give one of them"),
        (("--jobs", "2", "--mirror"), "--jobs is for trainings side by side"),
        (("--gpus", "1", "1"), "--gpus 1 1: give each GPU's number once"),
        (("--gpus", "7"), "--gpus 7: there is no such GPU here"),
        (("--scheduler", "tcp://127.0.0.1:9"), "--scheduler tcp://127.0.0.1:9: no Dask scheduler answers there"),
    ],
)
def test_what_cannot_be_is_one_line(toy, tmp_path, monkeypatch, arguments, line):
    monkeypatch.setattr(dask_cluster, "WAIT_S", 1.0)
    told = toy(*arguments)
    assert told.code == 2 and line in told.errors and "Traceback" not in told.errors
    assert not (tmp_path / "run").exists()  # before anything is read, drawn or measured


class Workers:
    """A client of a cluster whose one worker answers as another process does that is sent the question."""

    def __init__(self, package: str) -> None:
        self.package = package  # what `melano_tf` is there

    def wait_for_workers(self, count, timeout):
        pass

    def run(self, function):
        code = f"import pickle, sys\nsys.modules['melano_tf'] = {self.package}\nprint(pickle.load(sys.stdin.buffer)())"
        sent = distributed.protocol.pickle.dumps(function)
        done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
        return {"tcp://10.0.0.7:1": done.stdout.decode().strip()}


@pytest.mark.parametrize(
    "package, line",
    [
        (
            "type(sys)('melano_tf'); sys.modules['melano_tf'].__version__ = '0.1.9'",
            r"has melano_tf 0\.1\.9, and this is",
        ),
        ("None", "has no melano_tf; install version"),
    ],
)
def test_a_worker_of_another_version_or_without_the_package_is_refused(package, line):
    with pytest.raises(InputError, match=rf"worker tcp://10\.0\.0\.7:1: {line}"):
        dask_cluster._check_workers(Workers(package), "tcp://10.0.0.1:1")


def test_two_runs_of_the_same_settings_on_one_cluster_keep_apart(tmp_path):
    """Dask does a task once for all who hand it out under one name."""
    handed, priorities = [], []

    class Cluster:
        def submit(self, function, name, asked, key, pure, priority):
            handed.append((key, name))
            priorities.append(priority)

    for place, folder in enumerate(("one", "two")):
        settings = Running()
        work = Work(HelpingRun(tmp_path / folder, "toy", settings, 1, print), settings, {})
        dask_jobs._handed(Cluster(), work, Step("count/a", "count", print), place)
        assert handed[-1][1] == dask_jobs.Hands(None, SimpleNamespace(out=tmp_path / folder), 1).name
    (first, _), (second, _) = handed
    assert first != second and first.startswith("count/a-")
    assert priorities[0] > priorities[1]  # the plan's order, and not the names'


class Far:
    """What a worker process holds, in this one: its `Hands`, whose helper knows the step already."""

    address = "tcp://10.0.0.7:1"

    def __init__(self, work: Work, step: Step) -> None:
        self.state = SimpleNamespace(tasks={"t": SimpleNamespace(state="executing")})
        self.hands = dask_jobs.Hands(None, SimpleNamespace(out=work.run.folder), 1)
        run = HelpingRun(work.run.folder, "toy", Running(), 1, print)
        there = SimpleNamespace(run=run, work=Work(run, Running(), {}), ready=lambda asked: step)
        self.hands.worker, self.hands.configured, self.hands.helper = self, 1, there

    def get_current_task(self) -> str:
        return "t"

    def log_event(self, topic: str, said: dict[str, str]) -> None:
        pass

    def done(self, asked: Asked) -> SimpleNamespace:
        """What Dask gives back: its content was sent."""
        sent = pickle.dumps(self.hands.do(asked))
        return SimpleNamespace(result=lambda: pickle.loads(sent))


def breaks(work: Work, error: Exception) -> None:
    raise error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/step_1.keras")


@pytest.mark.parametrize(
    "error, kind, ends",
    [
        (TrainingError("the loss is not finite"), RunError, False),
        (Stopped("nobody waits"), Stopped, True),
        (FULL, OSError, True),
        (PermissionError(errno.EACCES, "Permission denied", "/a", None, "/b"), PermissionError, True),
        (OSError("no such group in the file"), OSError, True),
        (MemoryError(), MemoryError, False),
        (RuntimeError("it broke\n there"), dask_jobs.StepFailed, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("tolerant", [False, True])
def test_what_a_step_fails_with_elsewhere_is_what_it_would_fail_with_here(tmp_path, error, kind, ends, tolerant):
    """One line and its exit code, or the traceback of a step among others that may fail."""
    step = Step("train/a", "train", breaks, (error,), tolerant=tolerant)
    with Run(tmp_path, "toy", Running(), 1, lambda line: None) as run:
        work = Work(run, Running(), {})
        future = Far(work, step).done(Asked.of(work, step))
        if tolerant and not ends:
            dask_jobs._taken_back(work, step, future)
            assert work.failed == {"train/a": " ".join(str(error).split()) or "MemoryError"}
            far = (tmp_path / "failed" / "a.txt").read_text()
        else:
            with pytest.raises(kind) as found:
                dask_jobs._taken_back(work, step, future)
            assert type(found.value) is kind and str(found.value) in (str(error), line_of(error))
            facts = ("errno", "strerror", "filename", "filename2")
            assert not isinstance(error, OSError) or all(getattr(found.value, f) == getattr(error, f) for f in facts)
            far = str(found.value.__cause__)
        assert "in breaks" in far and line_of(error).split()[-1] in far  # the traceback of where it broke


def test_a_full_disk_elsewhere_ends_a_run_whose_steps_are_tolerant(toy):
    full = toy("--jobs", "2", "--fails", "A")
    assert full.code == 2 and "the disk is full" in full.errors and "Traceback" not in full.errors
    assert "FAILED" not in full.shown


@pytest.mark.parametrize("error", [None, LeftOut("too few"), RuntimeError("it broke")], ids=["", "left out", "broken"])
def test_what_a_step_says_elsewhere_is_said_here_once(tmp_path, error):
    said: list[str] = []

    def does(work: Work) -> list[Path]:
        work.say("slides    3 of 2 patients")  # where it reads what this process has read
        work.run.say("a: this training learns nothing")
        work.say("clusters  4")
        if error is not None:
            raise error
        return []

    step = Step("train/a", "train", does, tolerant=True)
    with Run(tmp_path, "toy", Running(), 1, said.append) as run:
        work = Work(run, Running(), {})
        work.say("slides    3 of 2 patients")
        run.begin(step.name)
        dask_jobs._taken_back(work, step, Far(work, step).done(Asked.of(work, step)))
        for line in ("clusters  4", "", ""):  # as a table of this process does
            work.say(line)
    told = {"LeftOut": ["  too few"], "RuntimeError": ["FAILED    a: it broke"]}.get(type(error).__name__, [])
    assert said == ["slides    3 of 2 patients", "a: this training learns nothing", "clusters  4", *told, "", ""]


@dataclass(frozen=True)
class There(Running):
    """Settings of a run in a folder."""

    out: Path = Path("runs/toy")


@pytest.fixture
def trained_from(tmp_path, monkeypatch):
    """A file of initial weights, and a step that is trained from it, the only one of any recipe's plan."""
    file = tmp_path / "given.weights.h5"
    file.write_bytes(b"as the run was begun")
    plan = Plan(("train",), lambda work: [], lambda work: "")
    plan.step("train/a", print, weights=[("vgg16", str(file), 64), ("vgg16", "none", 64)], depends={"epochs": 3})
    monkeypatch.setattr(helping, "planned", lambda recipe, settings: (plan, list(plan.steps.values()), []))
    return file, plan.steps["train/a"]


def test_a_process_that_sees_other_initial_weights_refuses_the_step(tmp_path, trained_from):
    """It would be finished under the key of those that the run was begun with."""
    file, step = trained_from
    settings, recipe = There(out=tmp_path / "run"), SimpleNamespace(name="toy")
    work = Work(HelpingRun(settings.out, "toy", settings, 1, print), settings, weights_of([step]))
    asked = Asked.of(work, step)
    word = json.dumps(dataclasses.asdict(asked))  # as one host tells it to another
    helper = Helper(recipe, settings, 1)
    helper.run.say("of the step before")
    assert helper.ready(asked) is helper.ready(Asked(**json.loads(word))) is step
    assert helper.run.lines == []
    file.write_bytes(b"another network's")
    for late in (helper, Helper(recipe, settings, 1)):  # also one that looked before
        with pytest.raises(InputError, match=rf"train/a .*\(the weights '{file}' of vgg16\); all must have the same"):
            late.ready(asked)


def test_a_process_whose_step_depends_on_something_else_names_it(tmp_path, trained_from):
    _, step = trained_from
    work = Work(HelpingRun(tmp_path / "run", "toy", Running(), 1, print), Running(), weights_of([step]))
    for changed, named in (({"epochs": 4}, "epochs"), ({"epochs": 3, "rate": 0.1}, "rate")):
        with pytest.raises(InputError, match=rf"train/a .*\({named}\); all must have the same"):
            check_same(work, step, Asked.of(work, dataclasses.replace(step, depends=changed)))
    other = dataclasses.replace(Asked.of(work, step), key="of another version")
    with pytest.raises(InputError, match=r"\(the version\)"):
        check_same(work, step, other)


@pytest.mark.parametrize(
    "chosen, seen", [(None, ["0", "2"]), ("3,5,7", ["3", "7"]), ("GPU-a1, GPU-b2, MIG-c3", ["GPU-a1", "MIG-c3"])]
)
def test_gpus_are_those_that_this_process_sees(monkeypatch, chosen, seen):
    """A scheduler of jobs gives some of a machine's GPUs, and the others are somebody else's."""
    given: list[dict[str, str]] = []

    @contextlib.contextmanager
    def cluster(workers, **_: object):
        given.extend(worker["options"]["env"] for worker in workers.values())
        yield

    monkeypatch.setattr(distributed, "SpecCluster", cluster)
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    with dask_cluster._local(Running(gpus=(0, 2))):
        assert [environment["CUDA_VISIBLE_DEVICES"] for environment in given] == seen


INTERRUPTED = """
if __name__ == "__main__":  # and not in the processes that it starts
    import signal, sys
    from melano_tf import run
    run.import_quietly()
    from melano_tf.papers import dask_cluster
    from melano_tf.papers.run_settings import Running

    def begins(arguments):
        with dask_cluster._local(Running(jobs=2)):
            raise RuntimeError("it is begun")

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests' own shell turned off
    run.heed_sigterm()
    mark = f"open(os.path.join({sys.argv[1]!r}, str(os.getpid())), 'w').close()"
    dask_cluster.QUIET = f"import os, time\\n{mark}\\ntime.sleep(1.5)\\n"
    run._doctor = begins
    sys.exit(run.main(["doctor"]))
"""


@pytest.mark.parametrize("number, whole", [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_command_that_is_interrupted_while_its_processes_start_ends_them(tmp_path, number, whole):
    """It alone, or with all of them, as a terminal does."""
    script, begun = tmp_path / "interrupted.py", tmp_path / "begun"
    begun.mkdir()
    script.write_text(INTERRUPTED)
    line, where = [sys.executable, str(script), str(begun)], {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    # Not forked: what Dask says, it says as Python ends.
    command = subprocess.Popen(line, env=where, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    try:
        while len(list(begun.iterdir())) < 2:
            assert time.monotonic() < deadline and command.poll() is None, "the processes did not start"
            time.sleep(0.02)
        (os.killpg if whole else os.kill)(command.pid, number)
        _, errors = command.communicate(timeout=60)
    finally:
        command.kill()
    told = "melano_tf: interrupted; the same command goes on where it stopped\n"
    assert (command.returncode, errors) == (128 + number, told)
    for worker in begun.iterdir():
        status = Path("/proc", worker.name, "status")
        assert not status.exists() or "\nState:\tZ" in status.read_text(), "a process outlived the command"


def test_data_that_changed_under_the_run_are_refused(tmp_path):
    work = Work(HelpingRun(tmp_path, "toy", Running(), 1, print), Running(), {})
    step = Step("text", "data", lambda work: Looked("abba", "abba"), always=True)
    with pytest.raises(InputError, match="text is not what it was when the run began"):
        look(work, step, digest("baab"))
    look(work, step, digest("abba"))
    assert work.value("text") == "abba" and work.identity("text") == digest("abba")


def test_a_training_elsewhere_says_how_far_it_is(tmp_path):
    """What the loop calls, with the same arguments as the bar of one process."""
    said: list[str] = []
    run = HelpingRun(tmp_path, "toy", Running(), 1, said.append)
    for bars in (run.bars, bar_over_epochs):
        with bars("toy", 3, 4) as show:
            show(5, 0.25, 0.5)
    assert said == ["epoch 2/3 loss 0.250 waiting 50%"]


def test_threads_are_shared_out_among_processes(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)), raising=False)
    assert [Running(jobs=number).threads_each() for number in (1, 2, 0, 5, 40)] == [0, 6, 1, 2, 1]
    assert Running(jobs=3, threads=7).threads_each() == 7 and Running(gpus=(0, 2)).threads_each() == 6
    assert Running(jobs=0).processes() == 12 and Running(gpus=(0, 2)).processes() == 2


def test_a_process_that_helps_takes_its_share_of_workers_and_makes_batches_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)), raising=False)
    seen: list[tuple[int, int]] = []
    step = Step("train/a", "train", lambda work: seen.append((work.workers, decoders())) or [])
    cases = [(Running(), True), (Running(jobs=4), True), (Running(workers=5), True)]
    cases += [(Running(jobs=4), False), (Running(gpus=(0, 2), workers=9), False), (Running(jobs=0), False)]
    for settings, decides in cases:
        work = Work(HelpingRun(tmp_path, "toy", settings, 1, print), settings, {})
        work.decides = decides
        act(work, step, tmp_path)
    assert seen == [(12, 12), (12, 12), (5, 5), (3, 3), (4, 4), (1, 2)]
    assert decoders() == 12


def test_a_small_preset_takes_a_core_for_each_training_where_it_can(monkeypatch):
    said: list[str] = []
    for cores, most in ((3, 3), (12, 4)):
        monkeypatch.setattr("os.sched_getaffinity", lambda process, cores=cores: set(range(cores)), raising=False)
        assert Running().side_by_side(said.append).jobs == most
    for asked in (Running(jobs=1), Running(gpus=(1,)), Running(scheduler="tcp://a:1"), Running(mirror=True)):
        assert asked.side_by_side(said.append) == asked
    assert not Running().spread_out and Running().processes() == 1 and said == []
    monkeypatch.setattr("melano_tf.papers.run_settings.find_spec", lambda name: None)
    assert Running().side_by_side(said.append) == Running()
    assert len(said) == 1 and '".[cluster]"' in said[0]


def test_where_no_bar_is_drawn_a_line_says_every_so_often_what_goes_on(tmp_path, monkeypatch):
    heard = {}
    client = SimpleNamespace(subscribe_topic=heard.__setitem__, unsubscribe_topic=heard.pop)
    said: list[str] = []
    work = SimpleNamespace(run=SimpleNamespace(folder=tmp_path / "a run"), say=said.append)
    with dask_jobs._Board(client, work) as board:
        [hear] = heard.values()
        board.bar.disable = True
        for name in ("fold-1", "fold-2"):
            board.more(name)
        hear((0.0, {"step": "fold-1", "text": "epoch 1/8"}))  # of the first minute
        monkeypatch.setattr(dask_jobs, "SAY_S", 0.0)
        hear((0.0, {"step": "fold-2", "text": "epoch 2/8"}))
        hear((0.0, {"step": "another run's", "text": "epoch 3/8"}))
        monkeypatch.setattr(dask_jobs, "SAY_S", 1e9)
        board.less("fold-1")
    assert said == ["  at work: fold-1 epoch 1/8 | fold-2 epoch 2/8", "  fold-1: ended, 1 of 2 handed out"]
    assert not heard
