"""One training on many hosts: a run's chief walks its plan, and calls the others to each training that is spread.

Every host is started with the same command, `--mirror`, and a TF_CONFIG that names them all. The chief, the first of
them, does what a run on one host does: it holds the run's folder, cuts, decodes, judges and makes the tables. Where a
training begins it tells the others which step that is. They make the same plan, look at the same data (which must be
the same), and follow the step's function into the training; there every host computes its part of each batch. Behind
the training they leave the step, write nothing, and wait to be told of the next one.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from melano_tf import __version__
from melano_tf.errors import InputError, RunError, line_of
from melano_tf.papers import shell
from melano_tf.papers.helping import Asked, Helper
from melano_tf.papers.plan import Recipe, Step
from melano_tf.papers.shell import LeftOut, Say, Stopped, Work, do, keep, note_failure
from melano_tf.runs.folder_lock import holder_of
from melano_tf.training.hosts import PATIENCE_S, Cluster, Hosts, gone, losses_named
from melano_tf.training.tensorflow_runtime import configure, kernels_named, strategy


class Elsewhere(Exception):
    """A host that helps is called to another step, or to none: it leaves the one at hand."""


class Chief:
    """The company of the host that decides: each training is told to the others."""

    chief = True

    def __init__(self, work: Work, hosts: Hosts) -> None:
        self.work, self.hosts = work, hosts
        self.step: Step | None = None
        self.met = False  # whether the others were called to the step at hand

    def begin(self, stem: str) -> None:
        """Call the others to a training of the step at hand."""
        assert self.step is not None
        self.met = True
        self.hosts.told(json.dumps(dataclasses.asdict(Asked.of(self.work, self.step)), default=str))

    def end(self) -> None:
        """The others leave by themselves."""

    def dismiss(self) -> None:
        """There is nothing left to train."""
        self.hosts.told("")


class Follower:
    """The company of a host that helps: it goes where it is called to."""

    chief = False

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.at = ""  # the step at hand
        self.call: Asked | None = None
        self.called = False  # by a word that was not followed yet

    def next(self) -> Asked | None:
        """The next step; None: there is none."""
        self._listen()
        return self.call

    def begin(self, stem: str) -> None:
        """Come to a training of the step at hand, if that is where the chief is.

        Raises:
            Elsewhere: it is not.
        """
        self.end()
        self.called = False

    def end(self) -> None:
        """Hear where the chief is next.

        Raises:
            Elsewhere: not in the step at hand.
        """
        self._listen()
        if self.call is None or self.call.name != self.at:
            raise Elsewhere

    def _listen(self) -> None:
        if not self.called:
            word = self.hosts.told()
            self.call, self.called = Asked(**json.loads(word)) if word else None, True


def reproduce(recipe: Recipe, settings: Any, cluster: Cluster, say: Say) -> None:
    """`shell.reproduce` on one of several hosts.

    Args:
        recipe, settings: what to do; the same on every host.
        cluster: the hosts.
        say: shows a line to the person at the terminal.

    Raises:
        InputError: a setting or an input file is wrong, a host does not come, or has another version, other settings or
            another folder.
        RunError: a training failed, or another host is gone.
    """
    if not settings.mirror:
        raise InputError(
            f"TF_CONFIG names {len(cluster.addresses)} hosts: add --mirror, which spreads each training over them, or "
            "unset it"
        )
    settings.check_running()
    whose = "the chief" if cluster.index == 0 else f"helps {cluster.addresses[0]}"
    say(
        f"host {cluster.index + 1} of {len(cluster.addresses)}, {whose}; "
        f"the others are waited for, {PATIENCE_S / 60:.0f} minutes at most"
    )
    with losses_named():
        if cluster.index == 0:
            shell.reproduce(recipe, settings, say, walk)
        else:
            follow(recipe, settings, say)


def walk(recipe: Recipe, work: Work, steps: Sequence[Step]) -> None:
    """Do the steps of a plan on the chief, the trainings with the others.

    Raises:
        Stopped: a training failed, or a host is gone: what the hosts would do next is not known to all of them.
    """
    hosts = Hosts.of(strategy(True))
    assert hosts is not None
    company = work.run.company = Chief(work, hosts)
    agree(hosts, work.run.settings_key(), json.dumps(holder_of(work.run.folder)), lambda token: "")
    work.say(f"each training is spread over {hosts.count} hosts")

    def together(work: Work, step: Step) -> str:
        try:
            return keep(work, step)
        except (LeftOut, InputError, OSError):
            raise
        except Exception as error:
            if not company.met:
                raise
            if line := gone(error):
                raise Stopped(line) from error
            note_failure(work, step, error)
            raise Stopped(f"{step.name}: {line_of(error)} (on several hosts this ends the run)") from error

    for step in steps:
        company.step, company.met = step, False
        do(work, step, together)
    company.dismiss()


def follow(recipe: Recipe, settings: Any, say: Say) -> None:
    """Help the chief with the trainings of a run, until there is none left.

    Raises:
        InputError: as `reproduce`.
        RunError: a training failed, or another host is gone.
    """
    threads = configure(settings.threads_each(), True, settings.deterministic)
    hosts = Hosts.of(strategy(True))
    assert hosts is not None
    helper = Helper(recipe, settings, threads)
    helper.run.bars = None

    def shared(token: str) -> str:
        if json.dumps(holder_of(helper.run.folder)) == token:
            return ""
        return f"{helper.run.folder} is not the folder that the chief writes into; the hosts must share it"

    agree(hosts, helper.run.settings_key(), "", shared)
    company = helper.run.company = Follower(hosts)
    done = 0
    while (asked := company.next()) is not None:
        step = helper.ready(asked)
        company.at, done = step.name, done + 1
        say(f"  {step.name}")
        helper.work.scratch = helper.run.folder / "work" / step.name / asked.key
        take_part(helper.work, step, company)
    say(f"helped with {done} steps; the chief goes on with tables and report")


def take_part(work: Work, step: Step, company: Follower) -> None:
    """Do what is a helping host's of a step that the chief called to.

    Raises:
        RunError: no training comes here, to which the chief called.
    """
    why = "there is none"
    with contextlib.suppress(Elsewhere), kernels_named():
        try:
            step.does(work, *step.args)
        except LeftOut as reason:
            if not company.called:  # the chief found the same, in the training
                return
            why = str(reason)
        raise RunError(f"{step.name}: the chief called to a training, and here {why}")


def agree(hosts: Hosts, settings_key: str, token: str, fault: Callable[[str], str]) -> None:
    """Make sure that all hosts do the same run.

    Args:
        hosts: all of them call this.
        settings_key: of this host's settings.
        token: the chief's, by which its folder is known.
        fault: that token -> what is wrong with this host's folder, or "".

    Raises:
        InputError: on every host, if one has another version, other settings or another folder.
    """
    mine = {"version": __version__, "settings": settings_key, "folder": token}
    all_of_them = [json.loads(text) for text in hosts.everybody(json.dumps(mine))]
    first, own = all_of_them[0], ""
    if first["version"] != __version__:
        own = f"has melano_tf {__version__}, and the chief has {first['version']}; install the same"
    elif first["settings"] != settings_key:
        own = "has other settings than the chief; give the same command on every host"
    else:
        own = fault(first["folder"])
    for number, wrong in enumerate(hosts.everybody(own), start=1):
        if wrong:
            raise InputError(f"host {number} of {hosts.count}: {wrong}")
