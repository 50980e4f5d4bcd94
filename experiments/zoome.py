# %% [markdown]
# # ZooME: Tables I and II, and what age, sex and site add
#
# Paper: *ZooME: Efficient Melanoma Detection Using Zoom-in Attention and Metadata Embedding Deep Neural Network*.
# ResNeXt50 with Zoom-SE after every residual block and metadata embedding; its ablations; networks that it is compared
# with. Mean ± std over ten folds of ISIC 2020.
#
# What the paper prints, what this project measured beside it, on which machine and for how long:
# `docs/papers/zoome.md`. Every printed cell: `data_specs/published/zoome.csv`; six printed accuracies lie outside of
# sensitivity and specificity, between which an accuracy must lie, and are marked as suspect.
#
# `python -m melano_tf.run zoome --out runs/zoome --tables 1,2 --comparators` makes the run, on phantom images;
# `python experiments/zoome.py --run runs/zoome` shows it: a finished run trains nothing again.

# %%
from melano_tf.papers.notebook import finished, pictures, table

run = finished("zoome")

# %% [markdown]
# ## Table I: the two modules (section IV-D)
#
# What each of them adds, in ROC AUC, here and in the paper.

# %%
cells = table(run, "table1")
if cells is not None:
    auc = cells[cells["row"] == "AUC"].set_index("column")
    for name in ("w/o Zoom-SE", "w/o Metadata"):
        here, paper = (auc.loc["ZooME", column] - auc.loc[name, column] for column in ("ours", "published"))
        print(f"{name}: taking it away costs {here:+.4f} here, {paper:+.4f} in the paper")

# %% [markdown]
# ## Table II: do the modules help other networks? (section IV-D)
#
# In accuracy (the paper's) and in ROC AUC (ours). The plain ResNet50 is Table I's "Maron et al.": one training.

# %%
cells = table(run, "table2")
if cells is not None:
    cells = cells.set_index(["row", "column"])[["ours", "published"]]
    for plain, improved in (("ResNet50", "ResNet50 + ZoomSE"), ("AlexNet", "AlexNet + Meta")):
        gain, auc = (cells.loc[(metric, improved)] - cells.loc[(metric, plain)] for metric in ("ACC", "AUC"))
        print(
            f"{improved}: accuracy {gain['ours']:+.4f} here, {gain['published']:+.4f} in the paper; "
            f"ROC AUC {auc['ours']:+.4f} here"
        )

# %% [markdown]
# ## What metadata add to the image (section III-B)
#
# The trained network is asked again with metadata blanked, with another patient's, and with each value of each field
# given to everybody. If metadata carry a signal, the gain must vanish with the first two. "FoldTraining without
# metadata" is Table I's ablation, another training.

# %%
cells = table(run, "metadata")
if cells is not None:
    auc = cells[cells["row"] == "AUC"].set_index("column")["ours"]
    for name, value in auc.items():
        print(f"ROC AUC {value:.4f}  {name}")
    [exchanged] = [name for name in auc.index if name.startswith("metadata exchanged between ")]  # patients or lesions
    for told, name in (("told the truth", "metadata as given"), ("told of somebody else", exchanged)):
        print(f"{told} rather than nothing: {auc[name] - auc['metadata blanked']:+.4f}")

# %% [markdown]
# What each value does, in log-odds against "unknown" (drawn in figures/metadata.png).

# %%
values = table(run, "metadata_values")
if values is not None:
    shown = ["field", "value", "images", "melanoma", "against_unknown", "lowest", "highest"]
    print(values[shown].to_string(index=False))
pictures(run)
