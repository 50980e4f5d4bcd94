"""What of a run was made together with one of its models: files of other settings may lie beside it."""

from pathlib import Path

from melano_tf.errors import InputError
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.sidecar import Sidecar

RECORDS = ("run.json", "made.json")


def made_together(model: Path) -> Standing | None:
    """What was made under the same settings, data and split as a model, in the run in whose folder it lies.

    Args:
        model: a model's file, which is there with its sidecar.

    Returns:
        None of a model that lies alone, copied out of its run, or in a run of a version that kept no such record.

    Raises:
        InputError: no finished step of the run made the model or its sidecar: it is being trained anew.
    """
    place = Path(model).absolute()
    folder = place.parent.parent
    if place.parent.name != "models" or not all((folder / name).is_file() for name in RECORDS):
        return None
    standing = Standing(folder, {})
    for path in (place, Sidecar.path(place)):
        if standing.plan_of(path) is None:
            raise InputError(
                f"{path}: no finished step of the run in {folder} made it: it is being trained or judged anew, or was "
                "put there; let the run's command end, or ask a copy of the model and its .json in another folder"
            )
    return standing.beside(place)
