# %% [markdown]
# # Slides to features, features to a diagnosis, and where the model looked
#
# The whole way of `features` and `bags` on phantom slides, which this program draws itself: what stands in these files
# is what stands in anybody's. No paper is reproduced; docs/bags.md names the models and the formats.
#
# The encoder is a network of keras.applications. Without a file of weights it is random, and the numbers below say
# nothing but that the way can be walked; give `--weights FILE` (or `imagenet`) to see what it is good for.
#
# The same as commands:
#
# ```
# python -m melano_tf.run features --slides slides.csv --encoder mobilenet --out features_mobilenet
# python -m melano_tf.run bags --features features_mobilenet --table slides.csv --slides slides.csv --out runs/bags
# python -m melano_tf.run predict --model runs/bags/models/bags.keras --input features_mobilenet/slide.h5 --out answer
# ```
#
# `python experiments/bags.py --out runs/bags-notebook`; given the same folder again, nothing is made twice.

# %%
import argparse
import dataclasses
from pathlib import Path

import h5py
import pandas as pd

from melano_tf.commands.features import FeaturesSettings, features
from melano_tf.papers.bags.settings import RECIPE
from melano_tf.papers.notebook import say
from melano_tf.papers.shell import reproduce
from melano_tf.phantoms.slides.slide_drawing import PhantomSettings, draw_cohort
from melano_tf.slides.tiling import TileGrid

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--out", type=Path, default=Path("runs/bags-notebook"))
parser.add_argument("--weights", default="none", help="of the encoder: none, imagenet, or a file")
parser.add_argument("--encoder", default="mobilenet")
parser.add_argument("--patients", type=int, default=16)
parser.add_argument("--epochs", type=int, default=15)
given = parser.parse_known_args()[0]

# %% [markdown]
# ## Slides
#
# Phantom biopsies, half of them malignant. Their manifest names the file, the patient and the label of each slide, so
# that one CSV is both the list of slides and the table of labels.

# %%
small = PhantomSettings(given.patients, 0.5, 0.0, width_um=(1000.0, 1200.0), height_um=(800.0, 900.0))
manifest = draw_cohort(given.out / "slides", small, seed=0, workers=1)
print(pd.read_csv(manifest).head(3).to_string())

# %% [markdown]
# ## Features
#
# Every tile with tissue goes through the encoder; a slide's vectors go into one file, laid out as TRIDENT's.

# %%
grid = TileGrid(tile_px=96, mpp=1.0, overlap=0.0)
made = features(
    FeaturesSettings(manifest, given.out / "features", given.encoder, weights=given.weights, grid=grid), say
)
first = pd.read_csv(manifest)["slide_id"][0]
with h5py.File(made / f"{first}.h5") as file:
    print({name: file[name].shape for name in file}, dict(file["coords"].attrs))

# %% [markdown]
# ## Bags
#
# The baseline, the paper's attention and gated attention, in cross-validation by patient: tables with intervals, the
# differences between the models, and maps over the slides.

# %%
demo = RECIPE.preset("demo")
run = reproduce(
    RECIPE,
    dataclasses.replace(
        demo,
        features=made,
        table=manifest,
        slides=manifest,
        out=given.out / "run",
        models="mean,bgas,gated",
        folds=dataclasses.replace(demo.folds, count=2),
        training=dataclasses.replace(demo.training, epochs=given.epochs),
        workers=1,
    ),
    say,
)

# %% [markdown]
# Where the model looked, over the slides of patients that it had not seen: `maps/`, and in the report with all else.

# %%
for path in sorted((run / "maps").glob("*.png")):
    print(path)
print(run / "report.html")
