# %% [markdown]
# # Table 1: images of each class
#
# Paper: *How Important Is Each Dermoscopy Image?*, section 4.2. ISIC 2018 Task 3, training set.
#
# Published: nevus 6741, melanoma 1119, dermatofibroma 116, actinic 331, keratosis 1101, BCC 517, vascular 143: together
# 10,068, while the text says 10,015, so all seven are marked as suspect (all 167 cells:
# `data_specs/published/weighting.csv`). Measured with this project: see docs/papers/weighting.md.
#
# Command of the same: `python -m melano_tf.run weighting --tables 1 --figures none --out runs/weighting`
#
# Given a finished run (`python experiments/weighting_table1.py --run runs/weighting`) it trains nothing again; what is
# missing there is trained with that run's own settings.

# %%
from melano_tf.papers.weighting.notebook import run_folder, table_of_run

run = run_folder()

# %% [markdown]
# The table as the paper prints it, ours beside it.

# %%
table = table_of_run(run, 1)
