# %% [markdown]
# # What scale the effective-number weights need under SGD
#
# Paper: *How Important Is Each Dermoscopy Image?*, section 3.2 and Tables 4 and 5 (SGD). As printed, equation 8 gives a
# sample of the training part (80 %) of ISIC 2018 a mean weight of 9.4e-4 (CB, equation 7: 7), and the gradient is
# divided by the number of samples whatever the weights sum to. Adam does not mind; SGD hardly moves, while the paper's
# ES rows are close to its CB rows.
# Cui et al., whom section 3.2 follows, rescale the weights so that they sum to the number of classes: that is
# `--rules.scale cui`, the default; `as_printed` and `mean_one` are the others.
#
# Here: phantom images, the demo's flat network, cross-entropy, SGD; CB and ES start from the same weights and see the
# same batches. How far the weights moved from there (norm of the change over the norm of the start), and by what the
# training loss fell (last epoch over first; a row's own weights stand in both).
#
# `python experiments/weighting_scales.py --out runs/scales`
#
# Measured (`--threads 1`): CB: weights moved 0.0548, training loss fell 28.3 %; ES as Cui et al. have it 0.0161 and
# 12.5 %, of mean 1 0.0205 and 15.7 %, as printed 0.0011 and 2.2 %. 440 phantoms train here, of ISIC 2018 8,012 images:
# there the printed weights are smaller still.

# %%
import argparse
import dataclasses
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from melano_tf.papers.notebook import say
from melano_tf.papers.shell import reproduce
from melano_tf.papers.weighting.settings import RECIPE

demo = RECIPE.preset("demo")
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--out", type=Path, default=Path("runs/scales"), help="folder of the run")
parser.add_argument("--patients", type=int, default=demo.phantom.patients, help="phantom patients")
parser.add_argument("--epochs", type=int, default=16, help="epochs of each training")
parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of SGD")
parser.add_argument("--warm-epochs", type=int, default=8, help="epochs of the common start")
parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one a core")
parser.add_argument("--workers", type=int, default=1, help="processes that draw; a script has to be one")
given = parser.parse_known_args()[0]

# %% [markdown]
# One run after the other in the same folder: phantoms, common start and the CB row are made once.

# %%
rows = []
for scale, weights in (("cui", "cb"), ("cui", "es"), ("mean_one", "es"), ("as_printed", "es")):
    cell = f"flat-sgd-cel-{weights}-split-1"
    settings = dataclasses.replace(
        demo,
        out=given.out,
        tables=(4,),
        figures="none",
        steps="images,train",
        strategies="cb,es",
        cells=cell,
        threads=given.threads,
        workers=given.workers,
        rules=dataclasses.replace(demo.rules, scale=scale),
        training=dataclasses.replace(
            demo.training, flat_epochs=given.epochs, warm_epochs=given.warm_epochs, sgd_rate=given.rate
        ),
        phantom=dataclasses.replace(demo.phantom, patients=given.patients),
    )
    reproduce(RECIPE, settings, say)
    with np.load(given.out / "warm" / "flat-split-1.npz") as file:
        start = np.concatenate([file[name].ravel() for name in file.files])
    model = keras.saving.load_model(given.out / "models" / f"{cell}.keras")
    end = np.concatenate([value.ravel() for value in model.get_weights()])
    loss = pd.read_csv(given.out / "history" / f"{cell}.csv")["loss"]
    moved = np.linalg.norm(end - start) / np.linalg.norm(start)
    rows.append({"row": f"CEL-{weights.upper()}", "scale": scale, "moved": moved, "fell": 1 - loss.iloc[-1] / loss[0]})

# %%
table = pd.DataFrame(rows)
table.to_csv(given.out / "scales.csv", index=False)
for one in rows:
    print(f"{one['row']:<7} {one['scale']:<11} weights moved {one['moved']:.4f}, training loss fell {one['fell']:.1%}")
