"""The multimag paper's experiments, in the paper's order. Nothing is done here: this is the plan."""

from melano_tf.papers.checks_beforehand import check_manifest
from melano_tf.papers.costs import slides_extent
from melano_tf.papers.multimag.cohort import check_tables, divide_slides, gather_tiles, said_slides
from melano_tf.papers.multimag.experiments import add_experiment, add_training
from melano_tf.papers.multimag.figures import draw_explained, draw_samples
from melano_tf.papers.multimag.map_faithfulness import measure_maps
from melano_tf.papers.multimag.models import judged_models
from melano_tf.papers.multimag.settings import STEPS, MultimagSettings
from melano_tf.papers.multimag.tables import write_aggregation, write_fusion, write_paper_tables
from melano_tf.papers.multimag.tasks import wanted_magnifications
from melano_tf.papers.plan import Extent, Plan
from melano_tf.papers.shared_tables import first_numbers
from melano_tf.papers.shell import Work
from melano_tf.papers.slide_steps import Cutting, add_slide_steps, asked_tiles
from melano_tf.phantoms.slides.diagnoses import draw_diagnoses


def method(s: MultimagSettings) -> Plan:
    """Divide the patients, cut their slides at four magnifications -> train every network on every task -> tables by
    tile and by slide -> how faithful the networks' maps are -> figures."""
    s.check()
    manifest = check_manifest(s, "multimag")
    if manifest is not None:
        check_tables(s, manifest)
    plan = Plan(STEPS, found, models, judged_models(s))
    cutting = Cutting(s.grids(), s.store, s.annotation)
    asks = asked_tiles(wanted_magnifications(s))
    tiles = add_slide_steps(
        plan, "multimag", draw_diagnoses, said_slides, cutting, divide_slides, asks
    )  # sections 2, 3
    cohort = plan.step("cohort", gather_tiles, cutting, needs=[tiles], group="tiles", always=True)
    plan.output("tiles", "tiles", [cohort], None)

    tasks = {number: add_experiment(plan, s, number) for number in s.trained_tables()}  # section 4.2
    trained = {  # every task is known to be possible, or left out, before the first of these
        number: [add_training(plan, s, task, backbone) for task in own for backbone in s.model.backbones]
        for number, own in tasks.items()
    }
    shown = {number: trained[number] for number in s.chosen_tables()}
    for number, needs in shown.items():
        plan.output(f"table {number}", "tables", needs, write_paper_tables, number)
    if compared := [number for number in shown if number in (1, 2)]:
        needs = [step for number in compared for step in shown[number]]
        plan.output("aggregation", "tables", needs, write_aggregation, tuple(compared))
    if 1 in shown:
        plan.output("fusion", "tables", shown[1], write_fusion)

    # Section 4.3 explains models of one magnification; predict asks one for a slide only together with its siblings.
    explained = trained.get(1, [])
    plan.output("faithfulness", "faithfulness", explained, measure_maps)
    if 1 in s.chosen_figures():
        plan.output("figure 1", "figures", [cohort], draw_samples)
    if 2 in s.chosen_figures() and explained:
        plan.output("figure 2", "figures", explained, draw_explained)
    return plan


def extent(s: MultimagSettings) -> Extent:
    """Slides and tiles."""
    return slides_extent(s, "multimag", s.grids(), s.phantom)


def models(work: Work) -> str:
    """Which models are there, and what takes them."""
    there = sorted((work.run.folder / "models").glob("melanoma-*x-*.keras"))
    return f"predict takes any of Table 1, for example {there[-1].name}" if there else ""


def found(work: Work) -> list[str]:
    """The first numbers of Table 1, by tile and by slide, with their intervals."""
    return first_numbers(work, "table1", "table1-slides")
