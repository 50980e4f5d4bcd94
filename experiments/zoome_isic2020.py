# %% [markdown]
# # ISIC 2020: the official folds, and one short training on a subset
#
# Paper: *ZooME: Efficient Melanoma Detection Using Zoom-in Attention and Metadata Embedding Deep Neural Network*,
# section IV-A: 33,126 images in ten folds of 3,313, with 58 to 60 malignant ones.
#
# Whoever has the data gives its folder, with the official CSV files and a folder of images, of any size and of as many
# of the rows as there are:
#
# `python experiments/zoome_isic2020.py --data FOLDER --images images_256 --out runs/isic2020`
#
# The folds of the full table need no images. The training is short and small (stand-in networks at 64 px, three folds):
# it shows that the program works on real images, not how good ZooME is.
#
# Measured on a subset that is not random (2,669 images of 98 patients, 38 melanomas, 256 px; the official tables are
# whole), seed 0, eight epochs, one thread of a busy two-core machine, 5 minutes:
#
# - ten folds of the full table by patient: 3,312 to 3,314 images, 58 to 59 malignant; no listed copy on two sides;
#   stratified alone, 2,052 patients and 375 listed pairs of copies stand on two sides;
# - ROC AUC over three folds (95 % interval by patient): ZooME 0.582 (0.477 to 0.664), without Zoom-SE 0.459 (0.360 to
#   0.564), without metadata 0.561 (0.487 to 0.648). With some 20 melanomas to learn from, from scratch and in eight
#   epochs, that is hardly better than chance; nothing about ZooME follows from it.

# %%
import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.dermoscopy.duplicates import listed_pairs
from melano_tf.dermoscopy.isic_records import read_isic2020
from melano_tf.papers.notebook import say
from melano_tf.papers.shell import reproduce
from melano_tf.papers.zoome.settings import RECIPE, preset
from melano_tf.splits.folds import grouped_folds, plain_folds
from melano_tf.splits.leaks import image_leaks, leak_lines
from melano_tf.splits.undivided_groups import pair_places

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--data", type=Path, required=True, help="folder of ISIC 2020's official CSV files")
parser.add_argument("--images", default="images_256", help="folder of images within it")
parser.add_argument("--out", type=Path, default=Path("runs/isic2020"), help="the run's folder")
parser.add_argument("--epochs", type=int, default=8, help="epochs of each training")
parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one a core")
given = parser.parse_known_args()[0]
truth = given.data / "ISIC_2020_Training_GroundTruth.csv"
duplicates = given.data / "ISIC_2020_Training_Duplicates.csv"

# %% [markdown]
# The paper's folds on the full table: by patient, and stratified alone, with what then stands on both sides.

# %%
records, findings = read_isic2020(ground_truth=truth, duplicates=duplicates)
copies = pair_places(listed_pairs(findings.listed_duplicates, records["image_id"]), records["image_id"].tolist())
labels = records["label"].tolist()
for words, fold in (
    ("by patient", grouped_folds(records["patient"].tolist(), labels, 10)),
    ("stratified alone", plain_folds(labels, 10)),
):
    sizes, malignant = np.bincount(fold), np.bincount(fold, weights=records["target"]).astype(int)
    print(f"ten folds {words}: {sizes.min()} to {sizes.max()} images, {malignant.min()} to {malignant.max()} malignant")
    owners = {"patient": records["patient"].tolist()}
    for line in leak_lines(image_leaks(fold, owners, copies, records["image_id"].tolist()), shown=0):
        print(f"  {line}")

# %% [markdown]
# One short training on the images that are there: ZooME and its ablations, three folds by patient.

# %%
demo = preset("demo")
settings = dataclasses.replace(
    demo,
    table=(truth, duplicates),
    images=(given.data / given.images,),
    out=given.out,
    steps="images,train,tables,figures",
    threads=given.threads,
    training=dataclasses.replace(demo.training, epochs=given.epochs),
)
reproduce(RECIPE, settings, say)

# %%
table = pd.read_csv(given.out / "tables" / "table1.csv")
for record in table[(table["row"] == "AUC") & table["ours"].notna()].to_dict("records"):
    print(
        f"{record['column']:<13} ROC AUC {record['ours']:.3f} ({record['low']:.3f} to {record['high']:.3f}) "
        f"of {record['patients']:.0f} patients; the paper, on all of ISIC 2020: {record['published']:.3f}"
    )
