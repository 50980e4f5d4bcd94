"""How the chief of several hosts calls the others to its trainings, and what does not fit together."""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from melano_tf.errors import InputError, RunError
from melano_tf.papers import many_hosts
from melano_tf.papers.helping import HelpingRun
from melano_tf.papers.initial_weights import weights_of
from melano_tf.papers.many_hosts import Chief, Elsewhere, Follower, agree, follow, take_part
from melano_tf.papers.plan import Step
from melano_tf.papers.run_settings import Running
from melano_tf.papers.shell import LeftOut, Work
from tests.papers.test_dask_jobs import There
from tests.papers.test_dask_jobs import trained_from as trained_from
from tests.papers.test_plan import toy as toy


class Threads:
    """`training.hosts.Hosts` between threads: what one says all hear, once all have spoken."""

    def __init__(self, index: int, count: int, meeting: dict[str, Any]) -> None:
        self.index, self.count, self.meeting = index, count, meeting
        self.chief = index == 0

    def everybody(self, text: str) -> list[str]:
        self.meeting["said"][self.index] = text
        self.meeting["barrier"].wait(10)
        heard = list(self.meeting["said"])
        self.meeting["barrier"].wait(10)
        return heard

    def told(self, text: str = "") -> str:
        return self.everybody(text if self.chief else "")[0]


def hosts(count: int) -> list[Threads]:
    meeting = {"said": [""] * count, "barrier": threading.Barrier(count)}
    return [Threads(index, count, meeting) for index in range(count)]


def together(*functions: Any) -> list[Any]:
    """What each gives or raises, side by side."""
    found: list[Any] = [None] * len(functions)

    def call(place: int, function: Any) -> None:
        try:
            found[place] = function()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def trainings_of(company: Any, stems: list[str], done: list[str]) -> None:
    """A step's function, as `training.fit` meets the others: a network that is built once, then its trainings; what
    is behind them is the chief's alone."""
    company.begin(stems[0])
    done.append("built")
    for stem in stems:
        company.begin(stem)
        done.append(stem)
        if not company.chief:
            company.end()
    done.append("written")


def test_a_host_follows_into_each_training_and_leaves_behind_the_last(tmp_path: Path) -> None:
    steps = {"one": ["a"], "three": ["b", "c", "d"], "again": ["e"]}
    first, second = hosts(2)
    chiefs: list[str] = []
    helps: list[str] = []

    def decide() -> None:
        work = Work(HelpingRun(tmp_path, "toy", Running(), 1, print), Running(), {})
        company = Chief(work, first)
        for name, stems in steps.items():
            company.step = Step(name, "train", print)
            trainings_of(company, stems, chiefs)
        company.dismiss()

    def help_out() -> str:
        company = Follower(second)
        while (asked := company.next()) is not None:
            company.at = asked.name
            with pytest.raises(Elsewhere):
                trainings_of(company, steps[asked.name], helps)
        return "dismissed"

    assert together(decide, help_out) == [None, "dismissed"]
    assert helps == ["built", "a", "built", "b", "c", "d", "built", "e"]
    assert [word for word in chiefs if word != "written"] == helps and chiefs.count("written") == 3


def test_a_training_that_one_host_alone_leaves_out_ends_the_run(tmp_path: Path) -> None:
    """The chief waits in it; to leave the step out here as well would be to wait for each other."""
    company = Follower(hosts(1)[0])
    work = Work(HelpingRun(tmp_path, "toy", Running(), 1, print), Running(), {})

    def too_few(_: Work) -> None:
        raise LeftOut("one patient of the fold is there")

    company.called = True  # to the step, whose training nobody came to yet
    with pytest.raises(RunError, match="one: the chief called to a training, and here one patient of the fold"):
        take_part(work, Step("one", "train", too_few), company)
    with pytest.raises(RunError, match="one: the chief called to a training, and here there is none"):
        take_part(work, Step("one", "train", lambda work: []), company)
    company.called = False
    take_part(work, Step("one", "train", too_few), company)


def test_a_host_that_sees_other_initial_weights_refuses_the_training(
    tmp_path: Path, trained_from: tuple[Path, Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be finished under the key of the chief's."""
    file, step = trained_from
    first, second = hosts(2)
    settings = There(out=tmp_path / "run")
    work = Work(HelpingRun(settings.out, "toy", settings, 1, print), settings, weights_of([step]))
    monkeypatch.setattr(many_hosts, "configure", lambda *_: 1)
    monkeypatch.setattr(many_hosts, "strategy", lambda mirror: None)
    monkeypatch.setattr(many_hosts.Hosts, "of", lambda strategy: second)
    file.write_bytes(b"another network's")

    def decide() -> None:
        agree(first, work.run.settings_key(), json.dumps({}), lambda token: "")
        company = Chief(work, first)
        company.step = step
        company.begin("a")

    chief, helps = together(decide, lambda: follow(SimpleNamespace(name="toy"), settings, print))
    assert chief is None and isinstance(helps, InputError) and f"the weights '{file}' of vgg16" in str(helps)


@dataclass
class Host:
    version: str = "1"
    settings: str = "as here"
    fault: str = ""


@pytest.mark.parametrize(
    "other, line",
    [
        (Host(), ""),
        (Host(settings="otherwise"), "host 2 of 3: has other settings than the chief"),
        (Host(fault="runs/mine is not the folder"), "host 2 of 3: runs/mine is not the folder"),
    ],
)
def test_hosts_that_do_not_fit_together_all_say_so(other: Host, line: str) -> None:
    def fits(one: Threads, host: Host) -> Any:
        return lambda: agree(one, host.settings, "token", lambda token: host.fault if token == "token" else "?")

    found = together(*(fits(one, host) for one, host in zip(hosts(3), (Host(), other, Host()), strict=True)))
    assert all(isinstance(error, InputError) and str(error).startswith(line) for error in found if line)
    assert line or found == [None] * 3


def test_hosts_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [{"version": "0.1.9", "settings": "s", "folder": ""}, {"version": "0.2.0", "settings": "s", "folder": ""}]
    rounds = iter([[json.dumps(word) for word in words]])
    one = SimpleNamespace(count=2, everybody=lambda text: next(rounds, None) or ["", text])
    monkeypatch.setattr("melano_tf.papers.many_hosts.__version__", "0.2.0")
    with pytest.raises(InputError, match=r"host 2 of 2: has melano_tf 0\.2\.0, and the chief has 0\.1\.9"):
        agree(one, "s", "", lambda token: "")


@pytest.mark.parametrize(
    "config, arguments, line",
    [
        ("{", ("--mirror",), "TF_CONFIG: is not of the form"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}', (), "add --mirror"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}',
            ("--mirror", "--jobs", "2"),
            "--jobs is for trainings side by side",
        ),
    ],
)
def test_what_cannot_be_on_hosts_is_one_line(toy, tmp_path, monkeypatch, config, arguments, line) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    told = toy(*arguments)
    assert told.code == 2 and line in told.errors and "Traceback" not in told.errors
    assert not (tmp_path / "run").exists()
