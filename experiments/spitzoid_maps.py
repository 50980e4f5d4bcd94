# %% [markdown]
# # Figures 8 and 9: where is the tumour, and what was the diagnosis made from?
#
# Paper: *An attention-based weakly supervised framework for spitzoid melanocytic lesion diagnosis in WSIs*, section 6.
# Figure 8: the source model's tumour probability over the slide, bilinear between tile centres, beside the annotation.
# Figure 9: the target model's attention, 0 to 1 within the bag.
#
# The paper prints no number here. What can be measured is measured: how much higher the tumour probability is
# inside the annotation than outside, on every test slide.
#
# Command of the same: `python -m melano_tf.run spitzoid --figures 8,9 --out runs/spitzoid`

# %%
import pandas as pd

from melano_tf.evaluation.metrics import roc_auc
from melano_tf.papers.spitzoid.notebook import finished, run_folder

run = run_folder()
finished(run, tables="5", figures="8,9")
maps = sorted((run / "maps").glob("*.png"))
print("\n".join(str(path) for path in maps))

# %% [markdown]
# In Jupyter the maps show here.

# %%
try:
    from IPython import get_ipython
    from IPython.display import Image, display
except ImportError:
    get_ipython = None
if get_ipython is not None and get_ipython() is not None:
    for path in maps:
        display(Image(filename=str(path)))

# %%
tiles = pd.read_parquet(run / "predictions" / "source.parquet")
record = pd.read_json(run / "run.json", typ="series")
test = tiles[tiles["patient_id"].isin(record["split"]["test"]) & (tiles["region"] >= 0)]
for slide, rows in test.groupby("slide_id"):
    auc = roc_auc(rows["region"], rows["probability"])
    tumour = int(rows["region"].sum())
    print(f"{slide}: ROC AUC of tumour tiles within the slide {auc:.3f} ({tumour} of {len(rows)} tiles)")
