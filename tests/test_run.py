"""The command line: help, exit codes, one clear line for bad input."""

import errno
import os
import subprocess
import sys

import pytest

from melano_tf import run
from melano_tf.errors import InputError, RunError


def test_importing_the_package_is_quick_and_brings_no_tensorflow():
    code = "import sys, melano_tf, melano_tf.run; sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_names_every_command(capsys):
    assert run.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("spitzoid", "zoome", "check", "predict", "doctor"))


@pytest.mark.parametrize("arguments", [["--help"], ["spitzoid"], ["predict", "--model", "m.keras"]])
def test_windows_is_told_of_wsl2_in_one_line(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "platform", "win32")
    assert run.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "WSL2" in line


def test_no_command_and_an_unknown_one_are_refused(capsys):
    assert run.main([]) == 2
    assert run.main(["spitzoyd"]) == 2
    assert "no command 'spitzoyd'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["spitzoid", "zoome", "check", "predict", "export", "doctor"])
def test_each_commands_help_needs_no_tensorflow(command):
    code = (
        "import sys\nfrom melano_tf.run import main\n"
        f"try:\n    main([{command!r}, '--help'])\nexcept SystemExit as stop:\n"
        "    sys.exit(9 if 'tensorflow' in sys.modules else stop.code or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


@pytest.mark.parametrize(
    "paper, words",
    [
        ("spitzoid", "--source.epochs INT Epochs; the last one is judged (section 5.2 A: 120). (default: 120)"),
        ("zoome", "--training.learning-rate FLOAT Learning rate (section IV-B: 1e-4). (default: 0.0001)"),
    ],
)
def test_a_papers_help_gives_its_values_and_places(paper, words):
    done = subprocess.run(
        [sys.executable, "-m", "melano_tf.run", paper, "--preset", "paper", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    text = " ".join(done.stdout.replace("│", " ").split())
    assert words in text


@pytest.mark.parametrize(
    "error, code, words",
    [
        (InputError("slides.csv, row 3: no such file"), 2, "row 3"),
        (RunError("training stopped"), 1, "training stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x/a"), 2, "disk is full"),
        (RuntimeError("runs/x; No space left on device"), 2, "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 2, "choose another --out"),
        (OSError(errno.EIO, "Input/output error"), 2, "of its disk or share"),
        (KeyboardInterrupt(), 130, "goes on where it stopped"),
    ],
)
def test_faults_are_one_line_without_a_traceback(monkeypatch, capsys, error, code, words):
    def fail(arguments):
        raise error

    monkeypatch.setattr(run, "_doctor", fail)
    assert run.main(["doctor"]) == code
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_a_programming_error_is_not_hidden(monkeypatch):
    def fail(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(run, "_doctor", fail)
    with pytest.raises(ZeroDivisionError):
        run.main(["doctor"])


def test_sigterm_is_heard_once_and_ends_as_ctrl_c_does():
    code = (
        "import os, signal, sys, time\nfrom melano_tf import run\n"
        "def long(arguments):\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(60)\n"
        "    finally:\n        print('tidied up', flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM) if arguments else None\n"
        "run._doctor = long\nrun.heed_sigterm()\nsys.exit(run.main(sys.argv[1:]))\n"
    )
    line = [sys.executable, "-c", code, "doctor"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (143, "tidied up\n")
    assert done.stderr.splitlines() == ["melano_tf: interrupted; the same command goes on where it stopped"]
    twice = subprocess.run([*line, "again"], capture_output=True, text=True, timeout=50)
    assert (twice.returncode, twice.stderr) == (-15, "")
