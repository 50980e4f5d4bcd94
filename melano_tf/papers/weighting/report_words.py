"""What the report says of the paper: recorded in each run, so that whoever reads one needs no recipe."""

import dataclasses

from melano_tf.papers.plan import ReportWords

WORDS = ReportWords(
    title="weighting: how important is each dermoscopy image?",
    paper="How important is each dermoscopy image?",
    asked=(
        "Which of seven diagnoses does a dermoscopy image show, and what is gained in training by weighting images: by "
        "how rare their class is, and by how much there is to learn from each?"
    ),
    method=(
        "Images are brought to one colour and size.",
        "Random splits are drawn by lesion; no lesion stands on two sides.",
        (
            "A flat and a hierarchical network learn with two optimisers, two losses and several weightings, on each "
            "split."
        ),
        "Each is judged on its split's held-out lesions at the last epoch.",
    ),
    groups="lesions",
    pictures=(
        ("figure1*", "Recall of each non-melanocytic class by loss and weighting."),
        ("figure2*", "Recall of each melanocytic class by loss and weighting."),
        ("figure3*", "Where the hierarchical network looked at its last decision: hard classes."),
        ("figure4*", "Where the hierarchical network looked at its last decision: easy classes."),
        ("best-errors*", "Judged images that the best cell is surest of, and wrong."),
        ("cameras*", "How the best cell holds up where another camera took the pictures."),
        ("pace*", "Which share of the images took part in each epoch."),
    ),
)

TRANSFER_WORDS = dataclasses.replace(
    WORDS,
    method=(
        "Images are brought to one size.",
        "They are divided into folds by lesion; each is judged by what was trained on the other folds.",
        (
            "A pretrained network, frozen up to a layer, has its rest trained with each weighting on the features that "
            "lie there: the strategies."
        ),
        (
            "The best cell has most of that network trained, and the imbalance of the classes taken out of its "
            "decision, which is chosen on training lesions held out."
        ),
        "Each is judged at its last epoch; the best cell also on images as other cameras would show them.",
    ),
)
