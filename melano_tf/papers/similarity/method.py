"""The similarity paper's experiments, in the paper's order. Nothing is done here: this is the plan."""

from typing import Any

from melano_tf.papers.image_steps import add_image_steps
from melano_tf.papers.plan import Plan, chosen_groups
from melano_tf.papers.shared_tables import first_numbers
from melano_tf.papers.shell import Work
from melano_tf.papers.similarity import figures, tables
from melano_tf.papers.similarity.black_edges import EDGES, remove_edges
from melano_tf.papers.similarity.clusters import (
    GROUPS,
    TEACHER,
    asked,
    check_enough,
    find_clusters,
    teacher_depends_on,
    teacher_load,
    train_teacher,
)
from melano_tf.papers.similarity.cohort import gather, of_one_colour, said_images
from melano_tf.papers.similarity.partition import PARTITION, divide
from melano_tf.papers.similarity.settings import BASELINE, JUDGED, STEPS, SimilaritySettings
from melano_tf.papers.similarity.students import (
    Student,
    check_pair,
    is_distilled,
    judged_models,
    student_depends_on,
    student_load,
    teacher_name,
    train_blind,
    train_student,
    wanted_students,
)
from melano_tf.runs.settings_digest import plain


def method(s: SimilaritySettings) -> Plan:
    """Resize -> similarity clustering (the teacher) -> black-edge removal -> partition by cluster (and by lesion) ->
    baseline and students with attention transfer -> tables -> figures."""
    plan = Plan(STEPS, found, models, judged_models(s))
    network = s.network
    images = add_image_steps(plan, "resize", s.store, said_images, unusable=of_one_colour)
    cohort = plan.step("cohort", gather, needs=images, group="resize", always=True)

    def weights(backbone: str) -> tuple[str, str, int]:
        return backbone, network.weights, network.input_px

    # Section "Similarity clustering".
    taught: dict[str, Any] = {
        "depends": teacher_depends_on(s),
        "weights": (weights(network.teacher),),
        "load": teacher_load(s),
    }
    enough = plan.step("cluster/enough", check_enough, needs=[cohort], always=True)
    teacher = plan.step(f"cluster/{TEACHER}", train_teacher, needs=[cohort, enough], **taught)
    clustering = {"cluster": asked(s), "seed": s.seed}
    groups = plan.step(GROUPS, find_clusters, needs=[teacher, cohort, enough], depends=clustering)

    # Section "Pre-processing": what is done cluster by cluster.
    edges = plan.step(EDGES, remove_edges, needs=[groups], depends={"edges": s.edges})
    drawn = {name: value for name, value in plain(s.partition).items() if name != "splits"}
    parts = plan.step(PARTITION, divide, needs=[groups], depends={"partition": drawn, "seed": s.seed})

    def teacher_of(split: str) -> str:
        if s.cluster.sees_test:
            return teacher
        name = f"cluster/{teacher_name(s, split)}"
        return plan.step(name, train_blind, split, needs=[cohort, parts], group="train", **taught)

    def train(which: Student) -> str:  # figure 4
        teachers = [teacher_of(which.split)] if which.layers else []
        teachers += [Student(BASELINE, (), which.split).step] if is_distilled(s, which) else []
        return plan.step(
            which.step,
            *(train_student, which),
            needs=[cohort, edges, parts, *teachers],
            depends=student_depends_on(s, which),
            weights=(weights(network.student),),
            load=student_load(s, which),
        )

    students = [train(which) for which in wanted_students(s)]
    add_tables(plan, s, students)
    add_figures(plan, s, students)
    add_pictures(plan, s)
    if set(students) & set(needs_of(plan)):
        check_pair(s)
    return plan


def add_tables(plan: Plan, s: SimilaritySettings, students: list[str]) -> None:
    """Tables 1 to 3 and 5, which count, and 6 to 11, accuracy and F1 of each part."""
    chosen = s.chosen_tables()
    for number in (number for number in (1, 2, 3) if number in chosen):
        plan.output(f"table {number}", "tables", ["cohort"], tables.counted_table, number)
    if 5 in chosen:
        plan.output("table 5", "tables", [PARTITION], tables.partition_table)
    for part, pair in JUDGED.items():
        if numbers := tuple(number for number in pair if number in chosen):
            name = f"table{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}"
            plan.output(name, "tables", students, tables.result_tables, part, numbers)


def add_figures(plan: Plan, s: SimilaritySettings, students: list[str]) -> None:
    """Figure 3, which counts, the sheets of Figure 5, and the curves of Figures 6 and 7."""
    chosen = s.chosen_figures()
    if 3 in chosen:
        plan.output("figure 3", "figures", ["cohort"], figures.draw_distribution)
    if 5 in chosen:
        plan.output("figure 5", "figures", [GROUPS], figures.draw_sheets)
    for number in (number for number in figures.TESTS if number in chosen):
        plan.output(f"figure {number}", "figures", students, figures.draw_curves, number)


def add_pictures(plan: Plan, s: SimilaritySettings) -> None:
    """What each of the four steps did, and what the embedding finds: with the steps that a table or figure asked for
    needs, or that --steps names; none is done for its picture alone. Where no figure is asked for none is drawn."""
    named = () if s.steps.strip().lower() == "all" else chosen_groups(s.steps, STEPS)
    done = {"cohort", *plan.below(needs_of(plan))}
    for number, step, draw in (
        (1, "cohort", figures.draw_resize),
        (2, GROUPS, figures.draw_rounds),
        (3, EDGES, figures.draw_edges),
        (4, PARTITION, figures.draw_parts),
    ):
        group = plan.steps[step].group
        if step in done or group in named:
            plan.output(f"picture of step {number}", group, [step], draw if s.chosen_figures() else None)
            if step == GROUPS:
                plan.output("retrieval", "tables", [step], tables.retrieval_table)


def needs_of(plan: Plan) -> list[str]:
    """The steps that the outputs stand on."""
    return [need for output in plan.outputs.values() for need in output.needs]


def models(work: Work) -> str:
    """Which models are there."""
    taught = (work.run.folder / "models" / f"{TEACHER}.keras").exists()
    return "teacher.keras finds similar images: python -m melano_tf.run similar" if taught else ""


def found(work: Work) -> list[str]:
    """Accuracy on each part outside the training, of the chosen combination and the baseline, a line each."""
    return first_numbers(work, *(f"table{numbers[0]}" for numbers in JUDGED.values()), of="networks")
