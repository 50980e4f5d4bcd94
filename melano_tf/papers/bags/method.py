"""The bags recipe as a plan. Nothing is done here."""

from melano_tf.papers.bags.cohort import divide, read
from melano_tf.papers.bags.figures import draw_calibration, draw_curves, draw_maps
from melano_tf.papers.bags.loads import training_load
from melano_tf.papers.bags.models import depends_on, judge_model, judge_name, judged_models, step_name, train_model
from melano_tf.papers.bags.settings import STEPS, BagsSettings
from melano_tf.papers.bags.tables import (
    attention_table,
    calibration_table,
    cohort_table,
    differences_table,
    models_table,
)
from melano_tf.papers.plan import Plan
from melano_tf.papers.shared_tables import first_numbers
from melano_tf.papers.shell import Work

MAKERS = {
    "models": models_table,
    "differences": differences_table,
    "calibration": calibration_table,
    "attention": attention_table,
}


def method(s: BagsSettings) -> Plan:
    """Join table and features -> divide the patients into folds -> train each model on all folds but one, ended by an
    inner hold-out -> calibrate it there and judge the fold left out -> tables -> figures; and one model trained on all
    folds, for use."""
    plan = Plan(STEPS, found, models, judged_models(s))
    features = plan.step("read", read, group="features", always=True)
    folds = plan.step("folds", divide, needs=[features], group="features", always=True)
    plan.output("folds", "features", [folds], None)

    def train(kind: str, fold: int | None) -> str:
        trained = plan.step(
            *(step_name(kind, fold), train_model, kind, fold),
            needs=[folds],
            depends=depends_on(s, kind, fold),
            load=training_load(s, kind, fold),
        )
        return plan.step(
            *(judge_name(kind, fold), judge_model, kind, fold),
            needs=[trained, folds],
            depends={"decision": s.decision},
            group=plan.steps[trained].group,
        )

    kinds = s.chosen_models()
    tables, figures = s.chosen_tables(), s.chosen_figures()
    judged = [train(kind, fold) for kind in kinds for fold in range(1, s.folds.count + 1)] if tables or figures else []
    if "cohort" in tables:
        plan.output("table cohort", "tables", [folds], cohort_table)
    for name, make in MAKERS.items():
        possible = (name != "attention" or s.features is None) and (name != "differences" or len(kinds) > 1)
        if name in tables and possible:
            plan.output(f"table {name}", "tables", judged, make)
    for name in ("roc", "pr"):
        if name in figures:
            plan.output(f"figure {name}", "figures", judged, draw_curves, name)
    for name, draw in (("reliability", draw_calibration), ("maps", draw_maps)):
        if name in figures:
            plan.output(f"figure {name}", "figures", judged, draw)
    if s.final != "none":
        plan.output("the model for use", "model", [train(s.final, None)], None)
    return plan


def models(work: Work) -> str:
    """Which models are there."""
    there = (work.run.folder / "models" / "bags.keras").exists()
    return f"the final one, {work.settings.final}: bags.keras" if there else ""


def found(work: Work) -> list[str]:
    """Each model's first number with its interval, a line each."""
    return first_numbers(work, "models", of="folds")
