"""Papers, and recipes that stand on none: a folder each, with `settings.RECIPE`, and a line here."""

# {command: (the recipe's package, what it does)}
PAPERS: dict[str, tuple[str, str]] = {
    "spitzoid": (
        "melano_tf.papers.spitzoid",
        """whole slides to a biopsy's diagnosis: the paper's tables, maps and models;
on your slides (--slides slides.csv) or on phantom slides that it draws itself""",
    ),
    "multimag": (
        "melano_tf.papers.multimag",
        """melanoma against nevi on tiles at four magnifications: the paper's tables, and maps
of what the networks look at; on your slides or on phantom slides""",
    ),
    "zoome": (
        "melano_tf.papers.zoome",
        """melanoma in dermoscopy images with age, sex and site: the paper's tables and models;
on ISIC 2020 (--table train.csv --images folder) or on phantom images""",
    ),
    "weighting": (
        "melano_tf.papers.weighting",
        """sample weights in the training of flat and hierarchical dermoscopy classifiers: the
paper's eighty trainings, tables and figures; on ISIC 2018 or on phantom images""",
    ),
    "similarity": (
        "melano_tf.papers.similarity",
        """eight skin lesions by similarity clustering and attention transfer: the paper's tables,
cluster sheets and models; on ISIC 2019 (--table … --images folder) or on phantom images""",
    ),
    "bags": (
        "melano_tf.papers.bags",
        """a slide's or patient's label from features that are there already (TRIDENT, CLAM, STAMP):
several models in cross-validation (--features folder --table cases.csv), or phantom features""",
    ),
}
