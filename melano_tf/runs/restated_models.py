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

    Its predictions are decided anew where the threshold is another one.

    Args:
        run: the run at work.
        name: of the step that trained the model.
        model: the model's file.
        change: the sidecar as it is to be, from the one that stands there.
    """
    card = Sidecar.read(model)
    wanted = change(card)
    if plain(wanted) == plain(card):
        return
    state_path = run.folder / "steps" / f"{name}.json"
    state = read_json(state_path)
    files = [wanted.write(model)]
    for path in (run.folder / "predictions" / f"{model.stem}{suffix}" for suffix in (".parquet", ".csv")):
        if wanted.threshold != card.threshold and str(path.relative_to(run.folder)) in state["outputs"]:
            table = read_predictions(path)
            files.append(write_predictions(path, table.assign(called=decided(table, wanted.threshold))))
    for path in files:
        facts = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        state["outputs"][str(path.relative_to(run.folder))] = facts
    write_json(state_path, state)
