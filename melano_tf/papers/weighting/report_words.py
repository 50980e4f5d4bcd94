"""What the report says of the paper: recorded in each run, so that whoever reads one needs no recipe."""

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
        ("figure[34]*", "Where the hierarchical network looked at its last decision."),
        ("figure*", "Recall of hard or easy classes by loss and weighting."),
        ("best-errors*", "Judged images that the best cell is surest of, and wrong."),
        ("cameras*", "How the best cell holds up where another camera took the pictures."),
        ("pace*", "Which share of the images took part in each epoch."),
    ),
)
