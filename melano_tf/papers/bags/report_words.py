"""What the report says of the recipe: recorded in each run, so that whoever reads one needs no recipe."""

from melano_tf.papers.plan import ReportWords

WORDS = ReportWords(
    title="bags: a label from features that are there already",
    paper="none: published models on features of any origin, judged as this project judges everything",
    asked=(
        "Can the label of a slide (or a patient) be told from features that another tool has made of its tiles, which "
        "model does it best, by how much, and where does it look?"
    ),
    method=(
        "The table is joined to the files of features; what is wrong with either is said at once.",
        "Patients are divided into folds, stratified by class; files that are copies stay on one side.",
        (
            "Each model learns on all folds but one. Training patients set aside end the training, calibrate it and "
            "choose its threshold."
        ),
        (
            "It is judged on the fold left out, so that every bag is judged once by a model that did not see its "
            "patient."
        ),
    ),
    groups="patients",
    pictures=(
        ("roc*", "ROC curves: sensitivity against false alarms, at every threshold."),
        ("pr*", "Precision and recall, at every threshold."),
        ("reliability*", "Calibration: of the bags given a probability, how many are positive?"),
        ("*attention*", "Attention over a bag's tiles: how much each counted in its answer, 0 to 1 within the bag."),
    ),
)
