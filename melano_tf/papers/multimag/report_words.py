"""What the report says of the paper: recorded in each run, so that whoever reads one needs no recipe."""

from melano_tf.papers.plan import ReportWords

WORDS = ReportWords(
    title="multimag: melanoma or nevus, at four magnifications",
    paper="Interpretable classification from skin cancer histology slides",
    asked=(
        "Can melanoma be told from intradermal, compound and junctional nevi on small tiles of histology slides, at "
        "which magnification, and what do the networks look at?"
    ),
    method=(
        "Slides are cut into tiles at four magnifications, measured in µm per pixel.",
        "Patients are divided into a training, a validation and a test part.",
        "Each network learns on the training part and is stopped on the validation part.",
        "It is judged on the test part, by tile and by slide.",
        "Maps of what it looks at are drawn, and their faithfulness is measured.",
    ),
    groups="patients",
    pictures=(
        ("figure1*", "Sample tiles of each diagnosis at each magnification."),
        (
            "figure2-right*",
            (
                "Rightly classified test tiles: slide with the tile marked, tile, greyscale, heat maps (CAM, Grad-CAM, "
                "Grad-CAM++), overlays."
            ),
        ),
        ("figure2-wrong*", "Wrongly classified test tiles, the surest ones: what misled the network."),
        (
            "faithfulness*",
            (
                "Deletion and insertion: how the answer changes while what the map calls important is taken away, or "
                "shown first."
            ),
        ),
    ),
)
