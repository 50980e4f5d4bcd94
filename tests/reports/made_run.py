"""A finished run's folder made by hand: small, and with text that a careless report would run as code."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.evaluation.interval import Interval
from melano_tf.papers.zoome.settings import RECIPE
from melano_tf.reports.figures import blank_figure
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.run_figures import png
from melano_tf.reports.table_files import write_table
from melano_tf.reports.tables import Headline, Table, interval_table
from melano_tf.runs.files_of_plan import plan_key
from melano_tf.runs.judgements import JudgedModel
from melano_tf.runs.predictions import VALIDATION
from melano_tf.runs.predictions import predictions as in_form
from melano_tf.runs.settings_digest import plain

HOSTILE = "<script>document.title='run'</script>"
PICTURE = '"><img src=x onerror="document.title=1">'
MODEL = "standin-zoom-metadata"
PLAN = {"settings": "as asked", "data": "as read"}


def predictions(cases: list[str], seed: int = 0, skill: float = 1.0) -> pd.DataFrame:
    """ZooME's predictions of these images, two a patient."""
    rng = np.random.default_rng(seed)
    target = np.arange(len(cases)) // 2 % 2
    p = 1 / (1 + np.exp(-(skill * (target - 0.5) + rng.normal(size=len(cases)))))
    groups = [f"P{place // 2}" for place in range(len(cases))]
    frame = pd.DataFrame({"image_id": cases, "group": groups, "fold": 1, "target": target})
    return in_form(frame.assign(case=cases, part=VALIDATION), p, calibrated=p)


@functools.cache
def picture() -> bytes:
    """A figure's PNG, drawn once for all of these runs."""
    figure = blank_figure(9, 4)
    figure.subplots().plot([0, 1], [1, 0])
    return png(figure)


def write_json(path: Path, content: Any) -> None:
    """JSON, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def bare_run(folder: Path, recipe: str = "zoome", **settings: Any) -> Path:
    """Only run.json: what a run that was stopped at once leaves."""
    write_json(folder / "run.json", {"recipe": recipe, "settings": {"preset": "demo", "seed": 0, **settings}})
    return folder


def made_run(folder: Path, frame: pd.DataFrame, hostile: str = "", **more: Any) -> Path:
    """A zoome run of one fold with these predictions, a table, figures, history, steps and a model's sidecar.

    Args:
        frame: from `predictions`.
        hostile: text that stands wherever data can put text.
        more: settings beside the usual ones.
    """
    settings = {"preset": "demo", "seed": 0, "table": [], "folds": {"count": 1}, "network": {"backbone": "standin"}}
    packages = {"tensorflow": "2.21.0", "numpy": "2.1.0"}
    machine = {"melano_tf": "0.1.0", "python": "3.12.1", "packages": packages, "processor": f"chip {hostile}"}
    machine |= {"cores": 2, "threads": 1, "platform": "Linux", "source_revision": "abc123"}
    command = ["/x/run.py", "zoome", "--out", f"runs/a {hostile}"]
    record = {
        "recipe": "zoome",
        "plan": PLAN,
        "report": RECIPE.told("demo"),
        "settings": {**settings, **more},
        "differs": [["training.epochs", 3, 30], ["network.backbone", f"standin {hostile}", "resnext50"]],
        "sessions": [{"started": "2026-01-02T03:04:05+0000", "command": command, "environment": machine}],
        "excluded": {"missing": [f"gone {hostile}"], "unreadable": [["torn", f"it ends early {hostile}"]]},
        "undecodable": {},
        "folds": {"1": frame["image_id"].tolist()},
        "judged": plain([JudgedModel("ZooME", (f"{MODEL}-fold-1.parquet",), (), "images", VALIDATION)]),
    }
    write_json(folder / "run.json", record)
    inputs = {
        f"/data/{name}.jpg": {"bytes": 10, "modified_ns": 0, "sha256": f"{name:0>64}"} for name in frame["image_id"]
    }
    write_json(folder / "inputs.json", inputs)
    write_json(folder / "steps" / "images.json", {"key": "k", "seconds": 61.4, "outputs": {}})
    write_json(folder / "steps" / "train" / "a" / "fold-1.json", {"key": "k", "seconds": 2.0, "outputs": {}})
    sidecar = {
        "kind": "zoome",
        "classes": ["benign", "melanoma"],
        "input_px": 32,
        "preprocessing": {},
        "threshold": 0.5,
    }
    write_json(
        folder / "models" / f"{MODEL}-fold-1.json", {**sidecar, "threshold_from": f"hold-out {hostile}", "run": {}}
    )
    (folder / "predictions").mkdir()
    frame.to_parquet(folder / "predictions" / f"{MODEL}-fold-1.parquet")
    found = {f"ZooME {hostile}": {"AUC": Interval(0.8123, 0.7012, 0.9034, 0, 100, 20, 0.95)}}
    table = interval_table(found, load_published("zoome"), 1, published_as={"AUC": "ROC_AUC"}, metrics=("AUC",))
    first = (Headline("AUC", f"ZooME {hostile}", f"first {hostile}"), Headline("AUC", "AlexNet", "not run"))
    notes = (f"A note {hostile}", "Said of several.")
    whole = Table(f"Table I {hostile}", table, notes, f"Words {hostile}", models_down=True, headlines=first)
    write_table(folder / "tables", "table1", whole)
    write_table(folder / "tables", "beside", Table("Beside it", table, ("Said of several.",)))
    (folder / "history").mkdir()
    losses = pd.DataFrame({"epoch": [0, 1, 2], "loss": [0.9, 0.5, 0.4], "seconds": [1, 1, 1]})
    losses.to_csv(folder / "history" / f"{MODEL}-fold-1.csv", index=False)
    for name in ("figures/metadata.png", "maps/P1-tumour.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture())
    return of_its_plan(folder)


def of_its_plan(folder: Path) -> Path:
    """Write down that all that lies in a run's folder was made under its plan."""
    shown = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    plan = plan_key(json.loads((folder / "run.json").read_text()).get("plan", {}))
    write_json(folder / "made.json", {str(path.relative_to(folder)): {"plan": plan, "step": "all"} for path in shown})
    return folder
