# %% [markdown]
# # What do age, sex and site add to the image?
#
# Paper: *ZooME: Efficient Melanoma Detection Using Zoom-in Attention and Metadata Embedding Deep Neural Network*,
# section III-B. The paper shows one number of it: ROC AUC 0.9223 with metadata, 0.9166 without (Table I). Here the
# trained network is asked again with metadata blanked, with another patient's metadata, and with each value of each
# field given to everybody. If metadata carry a signal, the gain must vanish with the first two.
#
# Measured with this project: see docs/papers/zoome.md.
#
# Command of the same: `python -m melano_tf.run zoome --tables 1 --figures metadata --out runs/zoome`
#
# Given a finished run (`python experiments/zoome_metadata.py --run runs/zoome`) it trains nothing again.

# %%
import pandas as pd

from melano_tf.papers.zoome.notebook import finished, run_folder

run = run_folder()
finished(run, tables="1", figures="metadata")

# %% [markdown]
# The same network, told more and less. "FoldTraining without metadata" is Table I's ablation, another training.

# %%
table = pd.read_csv(run / "tables" / "metadata.csv")
auc = table[table["row"] == "AUC"].set_index("column")["ours"]
for name, value in auc.items():
    print(f"ROC AUC {value:.4f}  {name}")
print(f"told the truth rather than nothing: {auc['metadata as given'] - auc['metadata blanked']:+.4f}")
print(
    "told of another patient rather than nothing: "
    f"{auc['metadata exchanged between patients'] - auc['metadata blanked']:+.4f}"
)

# %% [markdown]
# What each value does, in log-odds against "unknown" (drawn in figures/metadata.png).

# %%
values = pd.read_csv(run / "tables" / "metadata_values.csv")
print(values[["field", "value", "images", "melanoma", "against_unknown", "lowest", "highest"]].to_string(index=False))
