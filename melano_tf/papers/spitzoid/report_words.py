"""What the report says of the paper: recorded in each run, so that whoever reads one needs no recipe."""

from melano_tf.papers.plan import ReportWords

WORDS = ReportWords(
    title="spitzoid: is a spitzoid melanocytic biopsy malignant?",
    paper="An attention-based weakly supervised framework for spitzoid melanocytic lesion diagnosis in WSIs",
    asked=(
        "From whole-slide images alone: which parts of a slide are tumour (source model, tile by tile), and is the "
        "biopsy benign or malignant (target model, from the bag of tiles that the source model picks)?"
    ),
    method=(
        "Slides are cut into tiles at a measured resolution; tiles without enough tissue are dropped.",
        "Patients are divided into test patients and validation cohorts; no patient stands on two sides.",
        "The source model learns tumour against non-tumour tiles from the annotations.",
        "The target model is retrained as a whole on bags of the tiles that the source model calls tumour.",
        "Both are refitted on all training patients and asked about the test patients, once.",
    ),
    groups="patients",
    pictures=(
        (
            "figure6*",
            "Class activation maps: where the networks found what speaks for the class, on tiles that both got right.",
        ),
        ("figure7*", "The same on tiles that the plain network got wrong and SeaNet right."),
        ("*tumour*", "Tumour probability over a test slide (source model), beside the annotation."),
        (
            "*attention*",
            "Attention over a test slide: how much each tile counted in the biopsy's answer, 0 to 1 within the slide.",
        ),
    ),
)
