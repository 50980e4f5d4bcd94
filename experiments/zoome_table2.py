# %% [markdown]
# # Table II: do Zoom-SE and metadata embedding help other networks?
#
# Paper: *ZooME: Efficient Melanoma Detection Using Zoom-in Attention and Metadata Embedding Deep Neural Network*,
# section IV-D. ResNet50 without and with Zoom-SE, AlexNet without and with metadata embedding. Mean ± std over ten
# folds of ISIC 2020; the paper prints no AUC here.
#
# Published: ResNet50 ACC 0.7686, with Zoom-SE 0.7939; AlexNet 0.7850, with metadata 0.8093 (all cells:
# `data_specs/published/zoome.csv`). Measured with this project: see docs/papers/zoome.md.
#
# Command of the same: `python -m melano_tf.run zoome --tables 2 --figures none --out runs/zoome`
#
# Given a finished run (`python experiments/zoome_table2.py --run runs/zoome`) it trains nothing again; what is
# missing there is trained with that run's own settings. The plain ResNet50 is Table I's "Maron et al.": one training.

# %%
from melano_tf.papers.zoome.notebook import run_folder, table_of_run

run = run_folder()

# %% [markdown]
# The table as the paper prints it, ours beside it; our ROC AUC has no published counterpart.

# %%
table = table_of_run(run, 2)

# %% [markdown]
# What each module adds to each network, in accuracy (the paper's) and in ROC AUC (ours).

# %%
for plain, improved in (("ResNet50", "ResNet50 + ZoomSE"), ("AlexNet", "AlexNet + Meta")):
    cells = table.set_index(["row", "column"])
    gain = {
        metric: cells.loc[(metric, improved), "ours"] - cells.loc[(metric, plain), "ours"] for metric in ("ACC", "AUC")
    }
    paper = cells.loc[("ACC", improved), "published"] - cells.loc[("ACC", plain), "published"]
    print(f"{improved}: accuracy {gain['ACC']:+.4f} here, {paper:+.4f} in the paper; ROC AUC {gain['AUC']:+.4f} here")
