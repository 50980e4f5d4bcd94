"""The ZooME paper's experiments, in the paper's order. Nothing is done here: this is the plan."""

from melano_tf.models.zoome_network import check_network
from melano_tf.papers.image_steps import add_image_steps
from melano_tf.papers.plan import Plan
from melano_tf.papers.shared_tables import first_numbers
from melano_tf.papers.shell import Work
from melano_tf.papers.zoome.cohort import divide, said_images
from melano_tf.papers.zoome.figures import draw_calibration, draw_curves, draw_values
from melano_tf.papers.zoome.models import depends_on, judge_network, judging_depends_on, train_network, training_load
from melano_tf.papers.zoome.networks import Network, judge_name, judged_models, proposed, step_name
from melano_tf.papers.zoome.settings import STEPS, ZoomeSettings
from melano_tf.papers.zoome.tables import NETWORKS, metadata_tables
from melano_tf.papers.zoome.tables import table as write_table


def method(s: ZoomeSettings) -> Plan:
    """Read and decode the images -> divide them into folds -> train each network on all folds but one, and judge that
    one -> tables -> figures; and one network trained on all folds, for use."""
    plan = Plan(STEPS, found, models, judged_models(s))
    images = add_image_steps(plan, "images", s.store, said_images, near=s.folds.near_copies)
    folds = plan.step("folds", divide, needs=images, group="images", always=True)  # section IV-A
    plan.output("folds", "images", [folds], None)

    def train(which: Network, fold: int | None) -> str:  # sections III and IV-B, then IV-C
        check_network(which.backbone, which.weights, s.network.input_px, which.zoom_se)
        trained = plan.step(
            step_name(which, fold),
            *(train_network, which, fold),
            needs=[folds],
            depends=depends_on(s, which, fold),
            weights=((which.backbone, which.weights, s.network.input_px),),
            load=training_load(s, which, fold),
        )
        asked = judging_depends_on(s, which)
        group = plan.steps[trained].group
        return plan.step(
            judge_name(which, fold), judge_network, which, fold, needs=[trained, folds], depends=asked, group=group
        )

    rows = {
        number: [train(which, fold) for which in NETWORKS[number](s).values() for fold in range(1, s.folds.count + 1)]
        for number in s.chosen_tables()
    }
    for number, trained in rows.items():
        plan.output(f"table {number}", "tables", trained, write_table, number)
    if 1 in rows:
        plan.output("metadata", "tables", rows[1], metadata_tables)
    figures = s.chosen_figures() if rows else ()
    every = [step for trained in rows.values() for step in trained]
    for name in ("roc", "pr"):
        if name in figures:
            plan.output(f"figure {name}", "figures", every, draw_curves, name, tuple(rows))
    for name, draw in (("reliability", draw_calibration), ("metadata", draw_values)):
        if name in figures and 1 in rows:
            plan.output(f"figure {name}", "figures", rows[1], draw)
    plan.output("the model for use", "model", [train(proposed(s), None)], None)
    return plan


def models(work: Work) -> str:
    """Which models are there."""
    return "the final one: zoome.keras" if (work.run.folder / "models" / "zoome.keras").exists() else ""


def found(work: Work) -> list[str]:
    """ZooME's ROC AUC with its interval, as given and with the metadata blanked."""
    return first_numbers(work, "table1", "metadata", of="folds", most=1)
