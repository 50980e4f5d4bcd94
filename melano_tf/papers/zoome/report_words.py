"""What the report says of the paper: recorded in each run, so that whoever reads one needs no recipe."""

from melano_tf.papers.plan import ReportWords

WORDS = ReportWords(
    title="zoome: melanoma in dermoscopy images with age, sex and site",
    paper="ZooME: Efficient Melanoma Detection Using Zoom-in Attention and Metadata Embedding Deep Neural Network",
    asked=(
        "Is a dermoscopy image of a melanoma? And what do zoom-in attention and a patient's age, sex and the lesion's "
        "site add?"
    ),
    method=(
        "Images are decoded once; copies and near-copies are looked for.",
        "They are divided into folds by patient (or lesion).",
        "Each network learns on all folds but one. Threshold and temperature come from training patients set aside.",
        (
            "It is judged on the fold left out, so that every image is judged once by a network that did not see its "
            "patient."
        ),
    ),
    pictures=(
        ("roc*", "ROC curves: sensitivity against false alarms, at every threshold."),
        ("pr*", "Precision and recall: how many of those called melanoma are, at every threshold."),
        ("reliability*", "Calibration: of the images given a probability, how many are melanomas?"),
        ("metadata*", "What each value of age, sex and site adds to the log-odds of melanoma."),
    ),
)
