# %% [markdown]
# # Table 2: one model for tiles of all magnifications
#
# Paper: *Interpretable classification from skin cancer histology slides using deep learning* (melanoma against nevi at
# four magnifications), section 4.2.2.
# Tiles of the four magnifications pooled, melanoma against nevi.
#
# Published: ResNet50 F1 0.89, AUC 0.98; Vgg19 F1 0.80, AUC 0.95 (all cells: `data_specs/published/multimag.csv`).
# Measured with this project: see docs/papers/multimag.md.
#
# Command of the same: `python -m melano_tf.run multimag --tables 2 --steps tables --out runs/multimag`
#
# Given a finished run (`python experiments/multimag_table2.py --run runs/multimag`) it trains nothing again; what is
# missing there is trained with that run's own settings.

# %%
from melano_tf.papers.multimag.notebook import run_folder, table_of_run

run = run_folder()

# %% [markdown]
# The table as the paper prints it, ours beside it: by tile, then by slide (mean probability of a slide's tiles).

# %%
tiles = table_of_run(run, 2)

# %% [markdown]
# The paper's finding: ResNet50 is better than Vgg19 in every metric. Here:

# %%
wide = tiles.pivot_table(index="row", columns="column", values=["ours", "published"], sort=False)
print((wide["ours"]["ResNet50"] - wide["ours"]["Vgg19"]).round(4).to_string())
