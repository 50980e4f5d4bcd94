# %% [markdown]
# # ISIC 2019: the tables on the official files, and a short run on the images that are there
#
# Paper: similarity clustering and attention transfer on ISIC 2019: 25,331 images of HAM, BCN, MSK and an unnamed
# source.
#
# Whoever has the data gives the folder of the official CSV files, and any number of folders with images:
#
# `python experiments/similarity_isic2019.py --data FOLDER --images HAM_FOLDER OTHERS_FOLDER --out runs/isic2019`
#
# Tables 1 and 2 and the partition's logic need no images. The training is short and small (stand-in networks at 64 px):
# it shows what clustering, black-edge removal and attention transfer do on real images, not how good the paper's
# networks are. All images go through one resize and one JPEG quality first, so that clusters do not merely find the
# size and compression of the source's files.
#
# Measured on HAM10000 at 200 x 150 px and 2,745 others at 256 px (no BCN pixels), `--most 4000` (3,999 of HAM, 1,926 of
# the unnamed source; MSK is left out), seed 0, one thread, 1 min 54 s of processor time:
#
# - all rows: palms/soles 398, oral/genital 59, lateral torso 54, no site 2,631, as the paper says. By lesion, HAM test
#   3,842, BCN test 6,371, validation 2,443 (the paper: 3,844, 6,375, 2,443), nothing on two sides. Test clusters drawn
#   at random leave 3,612 lesions on two sides;
# - clusters go by light, skin, ruler, plaster and pen marks, not by class: 16 of 219 to 551 images, NMI of the last
#   two assignments 0.648; ARI with the source 0.052 (mean colour: 0.018), with the class 0.005. Recall@1 among other
#   lesions of HAM 0.627 (0.612 to 0.646), by chance 0.480; mAP@R 0.311;
# - 66 of 5,925 images have a black edge, in no cluster more than 12 %: none was removed;
# - divided by cluster, 424 of HAM's lesions stand in several parts;
# - HAM test, accuracy (95 % interval by lesion): by cluster, baseline 0.711 (0.689 to 0.735), attention of layers 1 to
#   4 0.733 (0.708 to 0.758); by lesion 0.705 (0.676 to 0.734) and 0.703 (0.679 to 0.730). Always saying NV would give
#   0.714 and 0.673. Balanced accuracy 0.262 and 0.184; by lesion 0.275 and 0.249: attention transfer gained nothing.

# %%
import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from melano_tf.dermoscopy.image_files import find_images, match_images, read_image
from melano_tf.dermoscopy.isic_records import read_isic2019
from melano_tf.papers.notebook import say
from melano_tf.papers.shell import reproduce
from melano_tf.papers.similarity import data_set_counts
from melano_tf.papers.similarity.settings import RECIPE, preset
from melano_tf.reports.table_layout import markdown
from melano_tf.reports.tables import Table
from melano_tf.runs.atomic_files import atomic
from melano_tf.splits.clusters import PAPER_TEST_SHARES, cluster_partition, grouped_partition, partition_leaks
from melano_tf.splits.leaks import leak_lines

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--data", type=Path, required=True, help="folder of ISIC 2019's official CSV files")
parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of images, of any size")
parser.add_argument("--out", type=Path, default=Path("runs/isic2019"), help="the run's folder")
parser.add_argument("--most", type=int, default=0, help="images of a source, whole lesions drawn by seed; 0: all")
parser.add_argument("--px", type=int, default=96, help="side that every image is first brought to")
parser.add_argument("--clusters", type=int, default=16, help="clusters of a source")
parser.add_argument("--teacher-epochs", type=int, default=3, help="epochs of the teacher")
parser.add_argument("--epochs", type=int, default=10, help="epochs of each student")
parser.add_argument("--combinations", default="1+2+3+4", help="layers whose attention is transferred")
parser.add_argument("--seed", type=int, default=0, help="of everything")
parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one a core")
parser.add_argument("--workers", type=int, default=0, help="threads that decode; 0: one a core")
given = parser.parse_known_args()[0]
truth, metadata = (given.data / f"ISIC_2019_Training_{name}.csv" for name in ("GroundTruth", "Metadata"))
QUALITY = 90

# %% [markdown]
# Tables 1 and 2 on all rows, and Table 5's logic on all rows of HAM and BCN. Clusters need pixels, and not everybody
# has all of them: here 16 clusters a source are drawn at random, which leaks more lesions than clusters of alike images
# do. By lesion nothing leaks, at the same sizes.

# %%
records, _ = read_isic2019(ground_truth=truth, metadata=metadata)
classes = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
for number, table in (
    (1, data_set_counts.source_table(records, classes)),
    (2, data_set_counts.site_table(records, classes)),
):
    print(markdown(Table(data_set_counts.TITLES[number], table)))
both = records[records["source"].isin(["HAM", "BCN"])].reset_index(drop=True)
sources, labels = both["source"].tolist(), both["label"].tolist()
wanted = {source: round(sources.count(source) * share) for source, share in PAPER_TEST_SHARES.items()}
drawn = np.random.default_rng(given.seed).integers(0, 16, len(both))
lesions, names = both["lesion"].tolist(), both["image_id"].tolist()
for words, partition in (
    ("by clusters drawn at random", cluster_partition(sources, drawn, labels, names, test_images=wanted)),
    ("by lesion", grouped_partition(sources, labels, lesions, test_images=wanted)),
):
    side = pd.Series(partition.side).where(partition.side != "test", both["source"] + " test")
    sizes = ", ".join(f"{name} {count:,}" for name, count in side.value_counts().items())
    print(f"{words}: {sizes} (paper: HAM test 3,844, BCN test 6,375, validation 2,443)")
    for line in leak_lines(partition_leaks(partition, {"lesion": lesions}, {}, names), shown=0):
        print(f"  {line}")

# %% [markdown]
# One resize and one JPEG quality for all images.

# %%
files = {}
for image, path in zip(
    records["image_id"], match_images(records["image_id"].tolist(), find_images(given.images)), strict=True
):
    if path is not None:
        files[image] = path
there = records[records["image_id"].isin(list(files))]
if given.most:
    rng, kept = np.random.default_rng(given.seed), []
    for _, own in there.groupby("source"):
        groups = own["lesion"].fillna(own["image_id"])
        order = rng.permutation(groups.unique())
        sizes = groups.value_counts()[order].cumsum()
        kept += own["image_id"][groups.isin(sizes.index[sizes <= given.most])].tolist()
    there = there[there["image_id"].isin(kept)]
print(f"images: {there['source'].value_counts().to_dict()}")
folder = given.out / "squeezed"
folder.mkdir(parents=True, exist_ok=True)
for image in tqdm(there["image_id"], desc="one size and quality for all", leave=False, mininterval=5):
    target = folder / f"{image}.jpg"
    if not target.exists():
        pixels = cv2.resize(read_image(files[image]), (given.px, given.px), interpolation=cv2.INTER_AREA)
        with atomic(target) as temporary:
            cv2.imwrite(str(temporary), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

# %% [markdown]
# The recipe on them. There are no BCN pixels in a subset without BCN: then only HAM trains and tests, the unnamed
# source is clustered with it, and black edges are looked for in both.

# %%
demo, found = preset("demo"), set(there["source"])
tested = tuple(source for source in ("HAM", "BCN") if source in found)
clustered = tuple(source for source in ("HAM", "BCN", "unnamed") if source in found)
settings = dataclasses.replace(
    demo,
    table=(truth, metadata),
    images=(folder,),
    out=given.out / "run",
    seed=given.seed,
    threads=given.threads,
    workers=given.workers,
    cluster=dataclasses.replace(
        demo.cluster,
        clusters=given.clusters,
        epochs=given.teacher_epochs,
        per_batch=16,
        whitened=32,
        sources=clustered,
    ),
    edges=dataclasses.replace(demo.edges, sources=clustered),
    partition=dataclasses.replace(demo.partition, sources=tested, test_clusters=given.clusters // 2),
    transfer=dataclasses.replace(
        demo.transfer, combinations=given.combinations, epochs=given.epochs, batch=32, learning_rate=1e-3
    ),
    evaluation=dataclasses.replace(demo.evaluation, repeats=500),
)
reproduce(RECIPE, settings, say)

# %% [markdown]
# Do the clusters find the source of the files? The adjusted Rand index of the teacher's pseudo-labels' sources, were
# all sources clustered together, and what mean colour alone would give.

# %%
from sklearn.metrics import adjusted_rand_score

from melano_tf.training.clustering import ClusterSettings, kmeans

clusters = pd.read_csv(settings.out / "clusters" / "clusters.csv")
embedding = np.load(settings.out / "clusters" / "embedding.npy")
colours = np.stack(
    [cv2.imread(str(folder / f"{name}.jpg")).reshape(-1, 3).mean(axis=0) for name in clusters["image_id"]]
)
for words, points in (("embedding", embedding), ("mean colour", colours.astype(np.float32))):
    together = kmeans(points, ClusterSettings(clusters=given.clusters), given.seed)[1]
    ari = {name: adjusted_rand_score(clusters[name], together) for name in ("source", "label")}
    print(f"{words}: ARI with the source {ari['source']:.3f}, with the class {ari['label']:.3f}")
