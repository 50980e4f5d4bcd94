"""What a finished model's sidecar and predictions say and its training does not depend on, said anew."""

from collections.abc import Callable
from pathlib import Path

from melano_tf.runs.atomic_files import file_sha256, read_json, write_json
from melano_tf.runs.predictions import decided, read_predictions, write_predictions
from melano_tf.runs.run_folder import Run
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar


def restate(run: Run, name: str, model: Path, change: Callable[[Sidecar], Sidecar]) -> None:
    """Let a trained model's sidecar say what the training does not depend on (a threshold): nothing is repeated.

    Its predictions are decided anew where the threshold is another one. Before the first of these files is written the
    step's state names them as `restating`, so that their checksums do not count (`Run.finished`), and made.json names
    them no more, for they are of no plan until they are whole; what a session that ended in between left is said anew
    by the next one.

    Args:
        run: the run at work.
        name: of the step that trained the model.
        model: the model's file.
        change: the sidecar as it is to be, from the one that stands there.
    """
    card = Sidecar.read(model)
    wanted = change(card)
    state_path = run.folder / "steps" / f"{name}.json"
    state = read_json(state_path)
    begun = state.pop("restating", [])
    if plain(wanted) == plain(card) and not begun:
        return

    def called(path: Path) -> str:
        return str(path.relative_to(run.folder))

    tables = [run.folder / "predictions" / f"{model.stem}{suffix}" for suffix in (".parquet", ".csv")]
    other = wanted.threshold != card.threshold
    tables = [path for path in tables if called(path) in state["outputs"] and (other or called(path) in begun)]
    files = [*tables, Sidecar.path(model)]
    run.made.forget(called(path) for path in files)
    write_json(state_path, {**state, "restating": [called(path) for path in files]})
    for path in tables:
        table = read_predictions(path)
        write_predictions(path, table.assign(called=decided(table, wanted.threshold)))
    wanted.write(model)
    for path in files:
        state["outputs"][called(path)] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(state_path, state)
    run.made.know([called(path) for path in files], name, state["key"])
    run.made.write()
