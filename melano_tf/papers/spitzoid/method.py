"""The spitzoid paper's experiments, in the paper's order. Nothing is done here: this is the plan."""

from melano_tf.papers.checks_beforehand import check_manifest
from melano_tf.papers.costs import slides_extent
from melano_tf.papers.plan import Extent, Plan, chosen_groups
from melano_tf.papers.shared_tables import first_numbers
from melano_tf.papers.shell import Work
from melano_tf.papers.slide_steps import Cutting, add_slide_steps
from melano_tf.papers.spitzoid.cohort import check_annotated, divide, said_slides, split_slides
from melano_tf.papers.spitzoid.figures import CAM_COHORT, cam_pair, draw_cams, draw_maps
from melano_tf.papers.spitzoid.settings import AGGREGATIONS, STEPS, Aggregation, SpitzoidSettings
from melano_tf.papers.spitzoid.source_model import (
    REGIONS,
    SourceModel,
    chosen,
    initial_weights,
    restate_source,
    source_depends,
    source_load,
    source_name,
    table_2,
    table_3,
    train_source,
)
from melano_tf.papers.spitzoid.tables import table as write_table
from melano_tf.papers.spitzoid.target_model import (
    DIAGNOSES,
    restate_target,
    target_depends,
    target_load,
    target_name,
    train_target,
)
from melano_tf.phantoms.slides.slide_drawing import draw_cohort
from melano_tf.runs.judgements import JudgedModel

JUDGED = (
    JudgedModel("target model", ("target.csv",), DIAGNOSES, "biopsies"),
    JudgedModel("source model", ("source.parquet",), REGIONS, "tiles", same=("grid",)),
)


def method(s: SpitzoidSettings) -> Plan:
    """Cut the slides into tiles -> divide the patients -> train the source models on each validation cohort -> select
    tumour tiles -> train the target models -> refit the chosen ones on all training patients and test them -> tables
    -> maps."""
    s.check()
    plan = Plan(STEPS, found, models, JUDGED)
    cut = Cutting(s.grid, s.store, s.annotation)
    tiles = add_slide_steps(plan, "spitzoid", draw_cohort, said_slides, cut)  # section 3
    split = plan.step("split", divide, needs=[tiles], group="tiles", always=True)  # section 5.1
    plan.output("tiles", "tiles", [split], None)

    def source(which: SourceModel, fold: int | None) -> str:  # sections 4.1 and 5.2
        return plan.step(
            source_name(which, fold),
            *(train_source, which, fold),
            needs=[split],
            depends=source_depends(s, which, fold),
            weights=((which.backbone, initial_weights(s, which), s.source.input_px),),
            restate=restate_source,
            group=group(fold, "source"),
            load=source_load(s, which, fold),
        )

    def target(aggregation: Aggregation, fold: int | None) -> str:  # sections 4.2 and 5.3
        return plan.step(
            target_name(aggregation, fold),
            *(train_target, aggregation, fold),
            needs=[split, source(chosen(s), fold)],  # which selects its tiles, and which it starts from
            depends=target_depends(s, aggregation, fold),
            restate=restate_target,
            group=group(fold, "target"),
            load=target_load(s, aggregation, fold),
        )

    cohorts = range(1, s.split.folds + 1)
    configurations = (*table_2(s), *table_3(s), chosen(s))
    sources = {which: [source(which, fold) for fold in cohorts] for which in configurations}
    targets = [target(aggregation, fold) for aggregation in AGGREGATIONS for fold in cohorts]
    final = [source(chosen(s), None), target(s.target.aggregation, None)]  # section 6

    of_table_2, of_table_3 = ([step for which in rows for step in sources[which]] for rows in (table_2(s), table_3(s)))
    needs = {1: [split], 2: of_table_2, 3: of_table_3, 4: targets, 5: final}
    for number in s.chosen_tables():
        plan.output(f"table {number}", "tables", needs[number], write_table, number)
    maps = tuple(number for number in s.chosen_figures() if number in (8, 9))
    if maps:
        plan.output(f"figure {' and '.join(map(str, maps))}", "maps", final, draw_maps, maps)
    seen = [sources[which][CAM_COHORT - 1] for which in cam_pair(s)]
    for number in s.chosen_figures():
        if number not in maps:
            plan.output(f"figure {number}", "maps", seen, draw_cams, number)
    check_slides(s, plan)
    return plan


def extent(s: SpitzoidSettings) -> Extent:
    """Slides and tiles."""
    return slides_extent(s, "spitzoid", s.grid, s.phantom)


def group(fold: int | None, name: str) -> str:
    """The word of `--steps` of a training: what is trained on all training patients is the test's."""
    return "test" if fold is None else name


def check_slides(s: SpitzoidSettings, plan: Plan) -> None:
    """What the user's manifest alone tells: its faults, and whether there is something to learn where that is asked.

    Raises:
        InputError: a fault of the manifest; or a model is to be trained, and no slide has an annotation, or there are
            too few patients of a class (slides that bring no tile can only make them fewer).
    """
    manifest = check_manifest(s, "spitzoid")
    steps, _ = plan.wanted(chosen_groups(s.steps, plan.groups))
    if manifest is not None and any(step.group in ("source", "target", "test") for step in steps):
        check_annotated(s, manifest)
        split_slides(s, manifest)


def models(work: Work) -> str:
    """Which models are there."""
    there = (work.run.folder / "models" / "target.keras").exists()
    return "the final ones: source.keras, target.keras" if there else ""


def found(work: Work) -> list[str]:
    """The first numbers of Table 5, with their intervals."""
    return first_numbers(work, "table5")
