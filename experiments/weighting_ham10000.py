# %% [markdown]
# # Sample weighting on real images: HAM10000 (ISIC 2018), on two cores
#
# Paper: *How important is each dermoscopy image?*, section 4, Table 2 (flat model, Adam): large networks, 299 px, 150
# epochs; OHEM per class is named there as future work. This is no reproduction of that table (published cells:
# `data_specs/published/weighting.csv`): it is what two cores can do on all 10,015 images.
#
# Command of the same:
# `python -m melano_tf.run weighting --preset ham10000 --table HAM10000_metadata.csv --images train_200x150
# --network.weights mobilenet.weights.h5 --out runs/ham10000`
#
# What it does, what was measured and how long that took: docs/papers/weighting.md.
#
# Given a finished run (`python experiments/weighting_ham10000.py --run runs/ham10000`) it trains nothing again; what is
# missing there is trained with that run's own settings. Without a run: phantom images, in minutes.

# %%
import dataclasses

import pandas as pd

from melano_tf.papers.notebook import restored, run_folder, say
from melano_tf.papers.shell import reproduce
from melano_tf.papers.weighting.settings import RECIPE
from melano_tf.runs.atomic_files import read_json

run = run_folder("runs/ham10000")
settings = RECIPE.default("ham10000", data=False)
if (run / "run.json").is_file():
    settings = restored(settings, read_json(run / "run.json")["settings"])
reproduce(RECIPE, dataclasses.replace(settings, out=run), say)

# %% [markdown]
# What each weighting changes against plain cross-entropy, on the same lesions: CB and ES buy balanced accuracy with
# accuracy, as in the paper.

# %%
differences = pd.read_csv(run / "tables" / "differences.csv")
for row in differences[differences["row"].isin(["Acc", "BAcc"])].itertuples():
    print(f"{row.column:<22} {row.row:<4} {row.ours:+.3f} ({row.low:+.3f} to {row.high:+.3f})")

# %% [markdown]
# The best cell by what its decision is in favour of, and what it confuses with what: a row a true class.

# %%
best = pd.read_csv(run / "tables" / "best.csv").pivot_table(index="column", columns="row", values="ours")
print(best.round(3).to_string())
print(pd.read_csv(run / "tables" / "best-confusion.csv", index_col="true").to_string())
