# %% [markdown]
# # Table 1: at which magnification are melanoma and nevi told apart best?
#
# Paper: *Interpretable classification from skin cancer histology slides using deep learning* (melanoma against nevi at
# four magnifications), section 4.2.1.
# One model a magnification (4x, 10x, 20x, 40x) and network.
#
# Published: ResNet50 at 40x is best, F1 0.93, sensitivity 0.92, specificity 0.97, AUC 0.99; our text has lost the other
# cells (all cells: `data_specs/published/multimag.csv`). Measured with this project: see docs/papers/multimag.md.
#
# Command of the same: `python -m melano_tf.run multimag --tables 1 --steps tables --out runs/multimag`
#
# Given a finished run (`python experiments/multimag_table1.py --run runs/multimag`) it trains nothing again; what is
# missing there is trained with that run's own settings.

# %%
from melano_tf.papers.multimag.notebook import run_folder, table_of_run

run = run_folder()

# %% [markdown]
# The table as the paper prints it, ours beside it: by tile, then by slide (mean probability of a slide's tiles).

# %%
tiles = table_of_run(run, 1)

# %% [markdown]
# The paper's question in one line a network: the ROC AUC of tiles by magnification.

# %%
auc = tiles[tiles["row"] == "AUC"].set_index("column")
for network in ("ResNet50", "Vgg19"):
    found = {name.split()[0]: row["ours"] for name, row in auc.iterrows() if name.endswith(network)}
    print(f"{network}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
