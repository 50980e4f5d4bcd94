# %% [markdown]
# # Table 2: which backbone finds the tumour's tiles, and does SeaNet help?
#
# Paper: *An attention-based weakly supervised framework for spitzoid melanocytic lesion diagnosis in WSIs*,
# section 5.2 A. Four source models (VGG16 and ResNet-50, each without and with SeaNet, GAP head), mean ± std over four
# validation cohorts.
#
# Published: SeaNet (with VGG16) is best, ACC 0.9031 ± 0.0262, F1S 0.8654 ± 0.0805 (all 28 cells:
# `data_specs/published/spitzoid.csv`). Measured with this project: see docs/papers/spitzoid.md.
#
# Command of the same: `python -m melano_tf.run spitzoid --tables 2 --figures none --out runs/spitzoid`
#
# Given a finished run (`python experiments/spitzoid_table2.py --run runs/spitzoid`) it trains nothing again; what is
# missing there is trained with that run's own settings.

# %%
from melano_tf.papers.spitzoid.notebook import run_folder, table_of_run

run = run_folder()

# %% [markdown]
# The table as the paper prints it, ours beside it. The paper's "AUC" is a balanced accuracy, so it stands beside ours.

# %%
table = table_of_run(run, 2)

# %% [markdown]
# The paper's question in two numbers: what SeaNet adds to each backbone, in balanced accuracy.

# %%
balanced = table[table["row"] == "BACC"].set_index("column")
for backbone in ("VGG16", "RESNET"):
    without, with_seanet = balanced.loc[backbone], balanced.loc[f"SeaNet (with {backbone})"]
    print(
        f"{backbone}: SeaNet changes it by {with_seanet['ours'] - without['ours']:+.4f} here, "
        f"by {with_seanet['published'] - without['published']:+.4f} in the paper"
    )
