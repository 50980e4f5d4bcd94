"""The command line: parse, choose a command, print where the results are.

python -m melano_tf.run spitzoid                 # the main job, on phantom slides
python -m melano_tf.run spitzoid --slides my.csv --out runs/my-cohort
python -m melano_tf.run zoome --table train.csv --images jpeg/train
python -m melano_tf.run bags --features features_uni --table cases.csv
python -m melano_tf.run predict --model runs/my-cohort/models/target.keras --input slide.svs --out answer
python -m melano_tf.run compare runs/a runs/b
python -m melano_tf.run export --model runs/my-cohort/models/target.keras --out serving
python -m melano_tf.run doctor --slides my.csv
"""

import errno
import functools
import importlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from melano_tf import __version__
from melano_tf.errors import InputError, RunError
from melano_tf.papers import PAPERS
from melano_tf.training.tensorflow_runtime import import_quietly

HELP = """melano_tf {version}: Keras / TensorFlow reproductions of melanoma papers.
Research only, not a medical device.

usage: python -m melano_tf.run COMMAND [options]      (each command has --help)

{papers}
  features   slides to features by any Keras network, in files that TRIDENT, CLAM and `bags` read
  similar    the images of a folder that are most like an image, by a similarity run's teacher
  check      what a dermoscopy data set holds: counts, metadata, copies, folds, what is unreadable
  predict    a trained model on one slide (probability, tumour tiles, maps, GeoJSON for QuPath),
             or on an image or a folder of them, with or without metadata; --server asks a served model
  export     a trained model for TensorFlow Serving, with card, configuration and the exact calls
  view       runs in the browser: slides with their maps, images, errors, a reader's notes
  compare    several finished runs in one table, with paired differences on the test cases that they share
  report     a finished run's report.html, written again
  audit      a finished run's judged cases against all that its models have seen: is anybody on both sides?
  doctor     versions, devices, disk and memory, and what is wrong with a --slides file
"""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a queue or a container sends before it kills: what runs beside is ended as after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 a fault of the run, 2 bad input, 130 interrupted, 143 ended."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if sys.platform == "win32":
        complain("Windows is not supported; give this command in WSL2 (https://learn.microsoft.com/windows/wsl)")
        return 2
    if not arguments or arguments[0] in ("-h", "--help"):
        say(HELP.format(version=__version__, papers="\n".join(_described())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        say(__version__)
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        **{name: functools.partial(_recipe, name) for name in PAPERS},
        "features": _features,
        "similar": _similar,
        "check": _check,
        "predict": _predict,
        "export": _export,
        "view": _view,
        "compare": _compare,
        "report": _report,
        "audit": _audit,
        "doctor": _doctor,
    }
    if arguments[0] not in commands:
        complain(f"no command {arguments[0]!r}; there are {', '.join(commands)} (see --help)")
        return 2
    try:
        return commands[arguments[0]](arguments[1:])
    except InputError as error:
        complain(str(error))
        return 2
    except RunError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt as why:
        complain("interrupted; the same command goes on where it stopped")
        return 128 + (signal.SIGTERM if isinstance(why, Terminated) else signal.SIGINT)
    except Exception as error:
        line = _explained(error)
        if line is None:
            raise
        complain(line)
        return 2


def say(line: str) -> None:
    """Show one line to the person at the terminal."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Show what was wrong."""
    sys.stdout.flush()
    sys.stderr.write(f"melano_tf: {line}\n")


def _explained(error: Exception) -> str | None:
    """One line for what is nobody's programming error: a full disk, a folder that cannot be written."""
    text = str(error)
    if (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    ) or "No space left on device" in text:
        where = getattr(error, "filename", None) or "--out"
        return f"{where}: the disk is full; free some space and give the same command again (finished steps are kept)"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}; if this is where the answer goes, choose another --out"
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return (
            "a file could not be read or written (input/output error of its disk or share); see the system's log, and "
            "give the same command again (finished steps are kept)"
        )
    if isinstance(error, MemoryError):
        return "the machine is out of memory; use fewer --workers, or a smaller --target.chunk"
    return None


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of `--name value` or `--name=value`, before the full parser runs."""
    for position, argument in enumerate(arguments):
        if argument == name:
            return arguments[position + 1] if position + 1 < len(arguments) else ""
        if argument.startswith(name + "="):
            return argument.partition("=")[2]
    return None


def _parse(settings: Any, arguments: Sequence[str], command: str, default: Any = None) -> Any:
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    # An optional group of settings (store.colour) is set by the preset or not; as a subcommand it would end options.
    options["config"] = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(settings, args=list(arguments), prog=f"python -m melano_tf.run {command}", **options)


def _described() -> list[str]:
    """Each paper's lines in the list of commands."""
    return [f"  {name:<10} " + words.replace("\n", "\n" + " " * 13) for name, (_, words) in PAPERS.items()]


def _recipe(name: str, arguments: list[str]) -> int:
    recipe = importlib.import_module(f"{PAPERS[name][0]}.settings").RECIPE
    default = recipe.default(_option(arguments, "--preset"), _option(arguments, f"--{recipe.data}") is not None)
    settings = _parse(type(default), arguments, name, default)
    if settings.preset in recipe.small:
        settings = settings.side_by_side(say)
    import_quietly()
    from melano_tf.papers.shell import reproduce
    from melano_tf.training.hosts import cluster

    there = cluster()
    if there is not None and not settings.plan:
        from melano_tf.papers import many_hosts

        many_hosts.reproduce(recipe, settings, there, say)
        return 0
    if not settings.spread_out or settings.plan:
        reproduce(recipe, settings, say)
        return 0
    try:
        from melano_tf.papers import dask_cluster, dask_jobs
    except ModuleNotFoundError as error:
        raise InputError(f'--jobs, --gpus and --scheduler need {error.name}: pip install ".[cluster]"') from None
    dask_cluster.check_there(settings)
    reproduce(recipe, settings, say, dask_jobs.walk)
    return 0


def _features(arguments: list[str]) -> int:
    from melano_tf.commands.features import FeaturesSettings

    settings = _parse(FeaturesSettings, arguments, "features")
    import_quietly()
    from melano_tf.commands.features import features

    features(settings, say)
    return 0


def _similar(arguments: list[str]) -> int:
    from melano_tf.commands.similar import SimilarSettings

    settings = _parse(SimilarSettings, arguments, "similar")
    import_quietly()
    from melano_tf.commands.similar import similar

    similar(settings, say)
    return 0


def _check(arguments: list[str]) -> int:
    from melano_tf.commands.check import CheckSettings, check

    return check(_parse(CheckSettings, arguments, "check"), say)


def _predict(arguments: list[str]) -> int:
    from melano_tf.commands.predict.settings import PredictSettings

    settings = _parse(PredictSettings, arguments, "predict")
    import_quietly()
    from melano_tf.commands.predict.command import predict

    predict(settings, say)
    return 0


def _compare(arguments: list[str]) -> int:
    from melano_tf.commands.compare import CompareSettings, compare

    compare(_parse(CompareSettings, arguments, "compare"), say)
    return 0


def _view(arguments: list[str]) -> int:
    from melano_tf.view.settings import ViewSettings

    settings = _parse(ViewSettings, arguments, "view")
    if importlib.util.find_spec("bokeh") is None:
        raise InputError("view: needs Bokeh, which is not installed; pip install 'melano_tf[view]'")
    from melano_tf.view.server import view

    view(settings, say)
    return 0


def _report(arguments: list[str]) -> int:
    from melano_tf.commands.report import ReportSettings
    from melano_tf.reports.report_html import write_report

    write_report(_parse(ReportSettings, arguments, "report").run, say)
    return 0


def _audit(arguments: list[str]) -> int:
    from melano_tf.commands.audit import AuditSettings, audit

    return audit(_parse(AuditSettings, arguments, "audit"), say)


def _export(arguments: list[str]) -> int:
    from melano_tf.commands.export import ExportSettings

    settings = _parse(ExportSettings, arguments, "export")
    import_quietly()
    from melano_tf.commands.export import export

    export(settings, say)
    return 0


def _doctor(arguments: list[str]) -> int:
    from melano_tf.commands.doctor import DoctorSettings, examine

    settings = _parse(DoctorSettings, arguments, "doctor")
    import_quietly()
    return examine(settings, say)


def heed_sigterm() -> None:
    """Let SIGTERM raise `Terminated`, once: a second one ends the process as it always did."""

    def raised(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, raised)


if __name__ == "__main__":
    heed_sigterm()
    sys.exit(main())
