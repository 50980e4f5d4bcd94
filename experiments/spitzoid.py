# %% [markdown]
# # Spitzoid melanocytic lesions in whole slides: Tables 1 to 5, Figures 6 to 9
#
# Paper: *An attention-based weakly supervised framework for spitzoid melanocytic lesion diagnosis in WSIs*. A source
# model finds the tumour's tiles; a target model puts them together to a biopsy's diagnosis.
#
# What the paper prints, what this project measured beside it, on which machine and for how long:
# `docs/papers/spitzoid.md`. Every printed cell: `data_specs/published/spitzoid.csv`.
#
# `python -m melano_tf.run spitzoid --out runs/spitzoid` makes the run, on phantom slides;
# `python experiments/spitzoid.py --run runs/spitzoid` shows it: a finished run trains nothing again.

# %%
import pandas as pd

from melano_tf.evaluation.binary_metrics import roc_auc
from melano_tf.papers.notebook import finished, pictures, table
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.predictions import read_predictions

run = finished("spitzoid")

# %% [markdown]
# ## Table 2: which backbone finds the tumour's tiles, and does SeaNet help? (section 5.2 A)
#
# The paper's question in two numbers: what SeaNet adds to each backbone, in balanced accuracy (the paper calls it AUC).

# %%
cells = table(run, "table2")
if cells is not None:
    balanced = cells[cells["row"] == "BACC"].set_index("column")
    for backbone in ("VGG16", "RESNET"):
        without, with_seanet = balanced.loc[backbone], balanced.loc[f"SeaNet (with {backbone})"]
        print(
            f"{backbone}: SeaNet changes it by {with_seanet['ours'] - without['ours']:+.4f} here, "
            f"by {with_seanet['published'] - without['published']:+.4f} in the paper"
        )

# %% [markdown]
# ## Table 3: which projection head? (section 5.2 B)
#
# The paper's order of the heads, and ours, by balanced accuracy. The paper prefers GMP; its ± 0.2490 and the MLP's
# SN ± 0.3000 are suspect.

# %%
cells = table(run, "table3")
if cells is not None:
    balanced = cells[cells["row"] == "BACC"].set_index("column")
    for side in ("published", "ours"):
        print(f"{side:>9}: {' > '.join(balanced[side].sort_values(ascending=False).index)}")

# %% [markdown]
# ## Table 4: how are a biopsy's tiles put together? (section 5.3 A)
#
# Batch global max pooling (BGMP), average pooling (BGAP), the attention summary (BGAS, equation 2). A cohort holds few
# biopsies, so a table of means hides a lot: each biopsy's probability, by aggregation.

# %%
parts = [
    read_predictions(file).assign(aggregation=aggregation)
    for aggregation in ("bgmp", "bgap", "bgas")
    for file in sorted((run / "predictions").glob(f"target-{aggregation}-cohort-*.csv"))
]
if parts:
    wide = pd.concat(parts).pivot_table(index=["target", "case"], columns="aggregation", values="probability")
    print(wide.round(3).to_string())

# %% [markdown]
# ## Table 5: the test (section 6)
#
# One value each in the paper, without intervals: with about 15 test biopsies an accuracy of 0.80 has a 95 % interval of
# roughly 0.55 to 0.93. Where the published value lies against our interval:

# %%
cells = table(run, "table5")
if cells is not None:
    for row in cells.dropna(subset=["published", "low"]).to_dict("records"):
        inside = row["low"] <= row["published"] <= row["high"]
        print(
            f"{row['column']} {row['row']:>5}: {row['ours']:.4f} ({row['low']:.4f} to {row['high']:.4f}); "
            f"published {row['published']:.4f}, {'inside' if inside else 'outside'}"
        )

# %% [markdown]
# ## Figures 6 to 9: activation maps, the tumour's probability over the slide, the target model's attention
#
# The paper prints no number here. What can be measured is measured: how much higher the tumour probability is inside
# the annotation than outside, on every test slide.

# %%
pictures(run)
judged = run / "predictions" / "source.parquet"
if judged.is_file():
    tiles = read_predictions(judged)
    tested = read_json(run / "run.json")["split"]["test"]
    for slide, rows in tiles[tiles["patient_id"].isin(tested) & (tiles["region"] >= 0)].groupby("slide_id"):
        auc, tumour = roc_auc(rows["region"], rows["probability"]), int(rows["region"].sum())
        print(f"{slide}: ROC AUC of tumour tiles within the slide {auc:.3f} ({tumour} of {len(rows)} tiles)")
