# %% [markdown]
# # Phantoms: what the drawings look like
#
# No data are needed to try anything here: slides and photographs of skin are drawn, and their truth is known
# (`melano_tf.phantoms`). This page shows them: a slide of each diagnosis, whole and near, with its annotation
# drawn in, and skin of each of ISIC 2019's eight classes. What tells classes apart is structure, never colour or stain.
#
# `python experiments/phantoms.py --out phantoms` writes `phantoms/phantoms.html`, one page with its two pictures beside
# it; nothing is trained. The same seed draws the same page.

# %%
import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import shapely

from melano_tf.phantoms.skin.isic_data_sets import draw_dermoscopy
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings
from melano_tf.phantoms.slides.diagnoses import DIAGNOSES, DiagnosisPhantomSettings, draw_diagnoses
from melano_tf.reports.contact_sheet import contact_sheet
from melano_tf.runs.atomic_files import atomic
from melano_tf.slides.slide import Slide

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--out", type=Path, default=Path("phantoms"), help="folder of the page")
parser.add_argument("--slide-um", type=float, default=1300, help="width of a slide, µm")
parser.add_argument("--skin-px", type=int, default=160, help="height of a photograph, px")
parser.add_argument("--each", type=int, default=4, help="photographs of a class")
parser.add_argument("--seed", type=int, default=0)
chosen, _ = parser.parse_known_args()

# %% [markdown]
# ## A slide of each diagnosis
#
# Melanoma, intradermal, compound and junctional nevus. The nevi differ in where their nests lie, the melanoma in its
# disorder. Above, whole slides at 4 µm/px with their annotations; below, 200 µm within them at 0.5 µm/px.

# %%
NAMES = {"MM": "melanoma", "IN": "intradermal nevus", "CN": "compound nevus", "JN": "junctional nevus"}
width, height = chosen.slide_um, 0.69 * chosen.slide_um
manifest = draw_diagnoses(
    chosen.out / "slides",
    DiagnosisPhantomSettings(
        patients=len(DIAGNOSES), second_slide_share=0, width_um=(width, width), height_um=(height, height)
    ),
    seed=chosen.seed,
    workers=1,
)
frame = pd.read_csv(manifest).set_index("label").loc[list(NAMES)]
whole, near = [], []
for _, row in frame.iterrows():
    outlines = shapely.from_geojson((manifest.parent / row["annotation"]).read_text())  # level-0 pixels
    with Slide(manifest.parent / row["path"]) as slide:
        picture, scale = slide.thumbnail(4), slide.mpp[0] / 4
        for outline in shapely.get_parts(outlines):
            edge = np.round(np.asarray(outline.exterior.coords) * scale).astype(np.int32)
            cv2.polylines(picture, [edge], True, (0, 110, 60), 2)
        middle = shapely.get_parts(outlines)[0].representative_point()
        near.append(slide.read(middle.x - 100 / slide.mpp[0], middle.y - 100 / slide.mpp[1], 400, 0.5))
        whole.append(picture)
title = f"Phantom slides, seed {chosen.seed}: drawn, nobody's tissue"
contact_sheet([*whole, *near], [*NAMES.values(), *[""] * len(near)], len(NAMES), chosen.out / "slides.png", title)
print(chosen.out / "slides.png")

# %% [markdown]
# ## Skin of each class
#
# ISIC 2019's eight classes as they are drawn, without a hint in colour; rulers, hair, dark rims and light are dealt to
# all alike.

# %%
drawn = draw_dermoscopy(
    chosen.out / "skin",
    PhantomDermoscopySettings(
        layout="isic2019", patients=12 * chosen.each, lesions_per_patient=(1, 2), imbalance=0, height_px=chosen.skin_px
    ),
    seed=chosen.seed,
)
truth = pd.read_csv(drawn.truth)
shown = truth.groupby("label", sort=True).head(chosen.each).sort_values("label", kind="stable")
columns = [own for _, own in shown.groupby("label")]
images, labels = [], []
for rank in range(chosen.each):
    for own in (own for own in columns if len(own) > rank):
        picture = cv2.imread(str(drawn.images / f"{own['image_id'].iloc[rank]}.jpg"))[:, :, ::-1]
        side = min(picture.shape[:2])
        top, left = ((length - side) // 2 for length in picture.shape[:2])
        images.append(picture[top : top + side, left : left + side])
        labels.append(own["label"].iloc[0] if rank == 0 else "")
title = f"Phantom skin, seed {chosen.seed}: drawn, nobody's skin"
contact_sheet(images, labels, len(columns), chosen.out / "skin.png", title)
print(chosen.out / "skin.png")

# %%
page = chosen.out / "phantoms.html"
with atomic(page) as temporary:
    temporary.write_text(
        "<!doctype html><meta charset='utf-8'><title>Phantoms</title><h1>Phantoms</h1>"
        "<p>Drawn by this program, so that all can be tried without data. Their numbers say nothing of skin.</p>"
        "<h2>A slide of each diagnosis</h2><p>Annotations in green; below, 200 µm within them.</p>"
        "<img src='slides.png' alt='slides'><h2>Skin of each class</h2><img src='skin.png' alt='skin'>",
        encoding="utf-8",
    )
print(page)
