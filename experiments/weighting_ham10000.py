# %% [markdown]
# # Sample weighting on real images: HAM10000 (ISIC 2018), on two cores
#
# Paper: *How important is each dermoscopy image?*, section 4, Table 2 (flat model, Adam): large networks, 299 px, 150
# epochs; OHEM per class is named there as future work. This is no reproduction of that table (published cells:
# `data_specs/published/weighting.csv`): it is what two cores can do in about an hour, on all 10,015 images.
#
# The images are the squares at the centre of 200x150 px versions, enlarged to 192 px, in the colours of the photograph:
# there is no colour constancy here, which the paper has (section 4.2). MobileNet, ImageNet weights but
# for a random last block (`conv_pw_13`). Two parts:
#
# - **strategies**: all up to `conv_pw_11` frozen, its features of four mirror images of each picture kept on disk; the
#   two last blocks and the softmax trained with each strategy, 6 epochs, Adam 5e-4, a tenth at 50 % and 75 %. CB and ES
#   weights are rescaled to mean 1, so that one learning rate suits all.
# - **best cell**: frozen up to `conv_pw_3` only, cross-entropy, 16 epochs of newly turned, cropped, mirrored and
#   coloured pictures, Adam 4e-4 down a cosine. The imbalance is taken out of the decision, not the training: the mean
#   probability over four mirror images is divided by a power of the training set's class shares, 0.4, where accuracy +
#   balanced accuracy are largest on a tenth of the training lesions that was held out.
#
# Two of five folds in which no lesion is divided validate (2,003 images each; 95 % intervals over their lesions).
# Measured, seed 0, with every strategy's difference from CEL: docs/papers/weighting.md.
#
# Nothing was tuned on these folds but one choice: 192 px instead of 150 was taken because a linear discriminant on the
# frozen features was better with it, judged on another draw of folds over the same images. Epochs were set by the time.
#
# Time, two cores of an AMD EPYC shared with many other jobs: best cell 34 min, features 6 min, twelve trainings 22 min.
#
# `python experiments/weighting_ham10000.py --data isic2018 --weights mobilenet.weights.h5 --out runs/ham10000`
#
# The model for use is the best cell's recipe trained on all images, nobody held out, with the power chosen above; what
# can be said of its accuracy is split 0's last row. One command makes it (with all that it needs, the best cell of
# split 0 first): the same with `--parts final`. It writes `models/ham10000.keras`, which takes squares of any size (it
# brings them to 150 px by area first) and is used by `python -m melano_tf.run predict --model runs/ham10000/models/
# ham10000.keras --input FOLDER --out answer`.

# %%
import argparse
import time
from pathlib import Path

from melano_tf.papers.checks import check_folders, check_weights, given_weights
from melano_tf.papers.ham10000.best import train_best
from melano_tf.papers.ham10000.cohort import read_cohort
from melano_tf.papers.ham10000.settings import Settings
from melano_tf.papers.ham10000.strategies import features_of, train_strategy
from melano_tf.papers.ham10000.tables import write_tables
from melano_tf.papers.notebook import say
from melano_tf.runs.run import Run
from melano_tf.training.runtime import configure

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--data", type=Path, help="folder with train_200x150 and HAM10000_metadata.csv; none: phantoms")
parser.add_argument("--out", type=Path, default=Path("runs/ham10000"), help="the run's folder")
parser.add_argument("--parts", default="best,strategies,tables", help="of best, strategies, tables, final, in order")
parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one a core")
for field in ("weights", "backbone", "cut", "deep_cut"):
    parser.add_argument(f"--{field.replace('_', '-')}", default=getattr(Settings, field))
for field in ("stored_px", "network_px", "folds", "epochs", "deep_epochs", "repeats", "seed"):
    parser.add_argument(f"--{field.replace('_', '-')}", type=int, default=getattr(Settings, field))
given = parser.parse_known_args()[0]
settings = Settings(**{name: value for name, value in vars(given).items() if name not in ("out", "parts", "threads")})
threads = configure(given.threads)

# %% [markdown]
# The images, five folds in which no lesion is divided, and then part by part; what is finished is not done again.

# %%
check_folders(given)
check_weights([(settings.backbone, settings.weights)])
with Run(given.out, "weighting-ham10000", settings, threads, say) as run:
    cohort = read_cohort(run, settings)
    run.stands_on(cohort.key, *given_weights(settings))
    for part in given.parts.split(","):
        began = time.monotonic()
        if part == "best":  # the best cell on the first split
            say(f"best cell  class shares to the power {train_best(run, settings, cohort, settings.splits[0]):g}")
        elif part == "strategies":
            features = features_of(run, settings, cohort)
            for split in settings.splits:
                for name in settings.strategies:
                    train_strategy(run, settings, cohort, features, name, split)
        elif part == "final":  # the same recipe on all images, for use
            train_best(run, settings, cohort, None, train_best(run, settings, cohort, settings.splits[0]))
        elif part == "tables":
            say(write_tables(run, settings))
        say(f"{part}: {time.monotonic() - began:.0f} s")
