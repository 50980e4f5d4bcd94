"""The similarity paper's experiments, in the paper's order.

Resize -> similarity clustering (the teacher) -> black-edge removal -> partition by cluster (and by lesion) -> baseline
and students with attention transfer -> tables -> figures.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from melano_tf.papers.checks import check_folders, check_weights, given_weights
from melano_tf.papers.similarity import counts, figures, tables
from melano_tf.papers.similarity.clusters import (
    Clusters,
    Teacher,
    check_enough,
    find_clusters,
    train_teacher,
)
from melano_tf.papers.similarity.cohort import Cohort, prepare_cohort
from melano_tf.papers.similarity.edges import Edges, remove_edges
from melano_tf.papers.similarity.partition import BEHIND, Parts, divide
from melano_tf.papers.similarity.settings import BASELINE, COUNTED, SimilaritySettings, changes
from melano_tf.papers.similarity.students import Judged, Student, check_pair, train_student, wanted_students
from melano_tf.papers.terminal import announce, finish
from melano_tf.reports.figures import save_figure
from melano_tf.training.runtime import configure
from melano_tf.workspace import Run

ABOUT = "similarity: eight skin lesions by similarity clustering and attention transfer"
Say = Callable[[str], None]


def reproduce(settings: SimilaritySettings, say: Say) -> Path:
    """Do what the settings ask for, or what is missing of it; returns the run's folder.

    Raises:
        InputError: a setting or an input file is wrong.
    """
    wanted, steps = settings.chosen_tables(), settings.chosen_steps()
    settings.chosen_figures(), settings.chosen_combinations(), settings.chosen_splits()
    check_folders(settings)
    network = settings.network
    pair = [(name, network.weights) for name in (network.teacher, network.student)]
    check_weights(pair if set(steps) - {"resize"} else [])
    drawn = "images" if not settings.table else None
    announce(ABOUT, drawn, settings, changes(settings), say)
    threads = configure(settings.threads, settings.mirror)
    with Run(settings.out, "similarity", settings, threads, say) as run:
        run.note(differs=changes(settings))
        written: list[Path] = []
        cohort = prepare_cohort(run, settings, say)
        run.stands_on(cohort.key, *given_weights(settings))
        counted_first(run, settings, cohort, written, say)
        later = set(steps) - {"resize"}
        needs = {"edges", "partition", "train"} | ({"tables"} if set(wanted) - {1, 2, 3} else set())
        needs |= {"figures"} if set(settings.chosen_figures()) - {3} else set()
        if not later & ({"cluster"} | needs):
            return told(run, say, {}, written)
        check_enough(settings, cohort)
        check_pair(settings, len(cohort.classes))
        teacher, clusters = cluster_images(run, settings, cohort, written, say)
        if not later & needs:
            return told(run, say, {}, written)
        edges = remove_edges(run, settings, cohort, clusters)
        for line in edges.lines():
            say(line)
        written.append(figures.draw_edges(run, settings, cohort, edges))
        parts = divide(run, settings, cohort, clusters, say)
        written.append(figures.draw_parts(run, settings, cohort, parts))
        if "tables" in steps and 5 in wanted:
            written += tables.partition_table(run, settings, cohort, parts, say)
        results = train_all(run, settings, cohort, teacher, edges, parts)
        if "tables" in steps and set(wanted) - set(COUNTED):
            written += tables.result_tables(run, settings, cohort, parts, results, wanted, say)
        if "figures" in steps:
            written += figures.draw_curves(run, settings, cohort, results, settings.chosen_figures())
        return told(run, say, results, written)


def counted_first(run: Run, settings: SimilaritySettings, cohort: Cohort, written: list[Path], say: Say) -> None:
    """Tables 1 to 3, Figure 3, and the picture of the first step."""
    steps = settings.chosen_steps()
    written.append(figures.draw_resize(run, settings, cohort))
    if "tables" in steps:
        written += tables.count_tables(run, settings, cohort, settings.chosen_tables(), say)
    if "figures" in steps and 3 in settings.chosen_figures():
        heading = figures.title("Figure 3: what the data set holds", settings)
        drawn = counts.distribution_figure(cohort.everything, cohort.classes, heading)
        written.append(save_figure(run.folder / "figures" / "figure3.png", drawn))


def cluster_images(
    run: Run, settings: SimilaritySettings, cohort: Cohort, written: list[Path], say: Say
) -> tuple[Teacher, Clusters]:
    """The teacher, every source's clusters, and what the embedding finds."""
    places = cohort.of(settings.cluster.sources)
    teacher = train_teacher(run, settings, cohort, places)
    clusters = find_clusters(run, settings, cohort, places, teacher)
    last = teacher.rounds.iloc[-1]
    sizes = [int(last[str(name)]) for name in teacher.rounds if str(name).startswith("size_")]
    say(
        f"clusters  {len(sizes)} of {min(sizes):,} to {max(sizes):,} images; agreement of the last two assignments "
        f"(NMI) {last['nmi']:.3f}"
    )
    written.append(figures.draw_rounds(run, settings, teacher))
    if "figures" in settings.chosen_steps() and 5 in settings.chosen_figures():
        written += figures.draw_sheets(run, settings, cohort, clusters)
    if "tables" in settings.chosen_steps():
        written += tables.retrieval_table(run, settings, cohort, clusters, say)
    return teacher, clusters


def train_all(
    run: Run, settings: SimilaritySettings, cohort: Cohort, teacher: Teacher, edges: Edges, parts: Parts
) -> dict[Student, Judged]:
    """Every network that the tables and figures ask for."""
    judged = set(settings.chosen_tables()) - set(COUNTED)
    curves = set(settings.chosen_figures()) & set(figures.TESTS)
    steps = set(settings.chosen_steps())
    if not ("train" in steps or ("tables" in steps and judged) or ("figures" in steps and curves)):
        return {}
    if not judged and not curves:
        return {}
    results: dict[Student, Judged] = {}
    for which in wanted_students(settings):
        teaching = teacher_of(run, settings, cohort, teacher, parts, which)
        baseline = results.get(Student(BASELINE, (), which.split))
        results[which] = train_student(run, settings, cohort, edges, parts, which, teaching, baseline)
    return results


def teacher_of(
    run: Run, settings: SimilaritySettings, cohort: Cohort, teacher: Teacher, parts: Parts, which: Student
) -> tuple[str, Path]:
    """Key and file of a student's teacher: the one that saw all images, or one that never saw the test's."""
    if settings.cluster.sees_test or not which.layers:
        return teacher.key, teacher.model
    tested = set(parts.records["image_id"][parts.records[f"side_{which.split}"] == "test"])
    places = cohort.of(settings.cluster.sources)
    kept = np.array([place for place in places if cohort.records["image_id"].iloc[place] not in tested], np.int64)
    blind = train_teacher(run, settings, cohort, kept, f"teacher-blind-{which.split}")
    return blind.key, blind.model


def told(run: Run, say: Say, results: dict[Student, Judged], written: list[Path]) -> Path:
    """Say what came out, and where it lies."""
    taught = (run.folder / "models" / "teacher.keras").exists()
    models = "teacher.keras finds similar images: python -m melano_tf.run similar" if taught else ""
    return finish(run, say, written, found(results), models)


def found(results: dict[Student, Judged]) -> list[str]:
    """Accuracy of the networks on each part outside the training, a line a partition and part."""
    lines = []
    for split in dict.fromkeys(which.split for which in results):
        own = {which.name: judged for which, judged in results.items() if which.split == split}
        for part in dict.fromkeys(own[BASELINE].predictions["part"]):
            numbers = ", ".join(f"{name} {tables.accuracy(judged.of(part)):.3f}" for name, judged in own.items())
            lines.append(f"accuracy  {part}{BEHIND[split]}: {numbers}")
    return lines
