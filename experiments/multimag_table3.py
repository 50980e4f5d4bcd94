# %% [markdown]
# # Table 3: from which nevus is melanoma hardest to tell?
#
# Paper: *Interpretable classification from skin cancer histology slides using deep learning* (melanoma against nevi at
# four magnifications), section 4.2.3.
# Melanoma against intradermal, compound and junctional nevi, each alone, at 40x.
#
# Published: hardest MM against IN (Vgg19, F1 0.89), easiest MM against JN (ResNet50, F1 0.98) (all cells:
# `data_specs/published/multimag.csv`). Measured with this project: see docs/papers/multimag.md.
#
# Command of the same: `python -m melano_tf.run multimag --tables 3 --steps tables --out runs/multimag`
#
# Given a finished run (`python experiments/multimag_table3.py --run runs/multimag`) it trains nothing again; what is
# missing there is trained with that run's own settings.

# %%
from melano_tf.papers.multimag.notebook import run_folder, table_of_run

run = run_folder()

# %% [markdown]
# The table as the paper prints it, ours beside it: by tile, then by slide (mean probability of a slide's tiles).

# %%
tiles = table_of_run(run, 3)

# %% [markdown]
# From the hardest to the easiest by F1, ours and the paper's.

# %%
f1 = tiles[tiles["row"] == "F1S"].sort_values("ours")
print(f1[["column", "ours", "published"]].to_string(index=False))
