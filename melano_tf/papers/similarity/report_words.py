"""What the report says of the paper: recorded in each run, so that whoever reads one needs no recipe."""

from melano_tf.papers.plan import ReportWords

WORDS = ReportWords(
    title="similarity: dermoscopy by similarity clustering and attention transfer",
    paper="Similarity clustering and attention transfer (the text's title page is not at hand)",
    asked=(
        "Which of eight diagnoses does a dermoscopy image show, and does a network learn better when a teacher, which "
        "learned which images are alike, shows it where to look?"
    ),
    method=(
        "Images are brought to one size, clustered by likeness, and black edges are removed.",
        "They are divided into training, validation and test by cluster (as the paper) and by lesion (without leaks).",
        "A baseline and students that copy the teacher's attention in some layers learn from the same start.",
        "Each is judged on the parts outside the training at the last epoch.",
    ),
    groups="lesions",
    pictures=(
        ("step1*", "Files as they are, and as every later step sees them."),
        ("step2*", "Clusters by round."),
        ("step3*", "Black edges found and removed."),
        ("step4*", "The parts."),
        ("figure3*", "What the data set holds."),
        ("figure5*", "Images of each cluster, drawn at random."),
        ("figure[67]*", "Precision and recall of each network."),
    ),
)
