# %% [markdown]
# # Table 3: which projection head?
#
# Paper: *An attention-based weakly supervised framework for spitzoid melanocytic lesion diagnosis in WSIs*,
# section 5.2 B. SeaNet-VGG16 with a multi-layer perceptron (128 ReLU), global max pooling and global average pooling;
# mean ± std over four validation cohorts.
#
# Published: SeaNet+GMP is preferred, F1S 0.8708 ± 0.0541, printed "AUC" 0.8935 (its ± 0.2490 and the MLP's SN ± 0.3000
# are suspect). Measured with this project: see docs/papers/spitzoid.md.
#
# Command of the same: `python -m melano_tf.run spitzoid --tables 3 --figures none --out runs/spitzoid`

# %%
from melano_tf.papers.spitzoid.notebook import run_folder, table_of_run

run = run_folder()

# %%
table = table_of_run(run, 3)

# %% [markdown]
# The paper's order of the heads, and ours, by balanced accuracy.

# %%
balanced = table[table["row"] == "BACC"].set_index("column")
for side in ("published", "ours"):
    print(f"{side:>9}: {' > '.join(balanced[side].sort_values(ascending=False).index)}")
