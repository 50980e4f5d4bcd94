# %% [markdown]
# # Table I: ZooME, networks that it is compared with, and its ablations
#
# Paper: *ZooME: Efficient Melanoma Detection Using Zoom-in Attention and Metadata Embedding Deep Neural Network*,
# section IV-D. ResNeXt50 with Zoom-SE after every residual block and metadata embedding; without either; Maron et al.
# (ResNet50), Kaur et al. (a stand-in: the paper does not describe it) and AlexNet. Mean ± std over ten folds of ISIC
# 2020.
#
# Published: ZooME ACC 0.8459 ± 0.0294, SE 0.8595 ± 0.0281, SP 0.8463 ± 0.0303, ROC AUC 0.9223 ± 0.0169; without
# Zoom-SE AUC 0.8678, without metadata 0.9166 (all 36 cells: `data_specs/published/zoome.csv`). Six printed accuracies
# lie outside of sensitivity and specificity, between which an accuracy must lie; they are marked as suspect. Measured
# with this project: see docs/papers/zoome.md.
#
# Command of the same: `python -m melano_tf.run zoome --tables 1 --comparators --figures roc,pr --out runs/zoome`
#
# Given a finished run (`python experiments/zoome_table1.py --run runs/zoome`) it trains nothing again; what is
# missing there is trained with that run's own settings.

# %%
from melano_tf.papers.zoome.notebook import run_folder, table_of_run

run = run_folder()

# %% [markdown]
# The table as the paper prints it, ours beside it, with intervals by patient.

# %%
table = table_of_run(run, 1)

# %% [markdown]
# What each of the two modules adds, in ROC AUC, here and in the paper.

# %%
auc = table[table["row"] == "AUC"].set_index("column")
for name in ("w/o Zoom-SE", "w/o Metadata"):
    here, paper = (auc.loc["ZooME", column] - auc.loc[name, column] for column in ("ours", "published"))
    print(f"{name}: taking it away costs {here:+.4f} here, {paper:+.4f} in the paper")
