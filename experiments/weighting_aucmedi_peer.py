# The peer of weighting_aucmedi.py, in an environment of its own (weighting_aucmedi.sh): AUCMEDI's AutoML pipeline
# "standard" put together from its own parts, with MobileNet, the weights that it is given, and a limit of the
# processor's time.
#
# Usage: python weighting_aucmedi_peer.py FOLDER IMAGES PX MINUTES SEED. FOLDER holds fold.csv (name, label, part: train
# or judge) and weights.npz ("layer/place" -> array); its answers go to FOLDER/answers.csv, its story to history.csv.
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from aucmedi import DataGenerator, ImageAugmentation, NeuralNetwork
from aucmedi.data_processing.io_loader import image_loader
from aucmedi.neural_network.loss_functions import categorical_focal_loss
from aucmedi.sampling import sampling_split
from aucmedi.utils.class_weights import compute_class_weights
from tensorflow.keras.callbacks import Callback, CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from tensorflow.keras.metrics import AUC

BATCH, EPOCHS = 24, 500  # its command's own


class UntilThen(Callback):
    """Ends the training when its time is up: of the processor, so that what else goes on does not count."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.began = seconds, time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        if time.process_time() - self.began > self.seconds:
            self.model.stop_training = True


def give(model, file):
    """Put the given weights into the layers of their names; those of layers that are not in the file stay random."""
    given = {}
    with np.load(file) as held:
        for name in held.files:
            layer, _, place = name.rpartition("/")
            given.setdefault(layer, {})[int(place)] = held[name]
    for layer, arrays in given.items():
        model.get_layer(layer).set_weights([arrays[place] for place in sorted(arrays)])
    return len(given)


def main(folder, images, px, minutes, seed):
    tf.keras.utils.set_random_seed(seed)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    table = pd.read_csv(folder / "fold.csv", dtype={"name": str})
    classes = sorted(table["label"].unique())
    train, judge = (table[table["part"] == part] for part in ("train", "judge"))
    names, coded = train["name"].tolist(), np.eye(len(classes))[[classes.index(one) for one in train["label"]]]

    weights, _ = compute_class_weights(ohe_array=coded)
    model = NeuralNetwork(
        n_labels=len(classes),
        channels=3,
        architecture="2D.MobileNet",
        input_shape=(px, px),
        pretrained_weights=False,  # it would fetch those that it is given here
        loss=categorical_focal_loss(weights),
        metrics=[AUC(100)],
        verbose=2,
    )
    print("layers that were given weights:", give(model.model, folder / "weights.npz"))
    shown = ImageAugmentation(
        flip=True,
        rotate=True,
        scale=False,
        brightness=True,
        contrast=True,
        saturation=False,
        hue=False,
        gamma=True,
        elastic_transform=True,
    )
    of_all = {
        "path_imagedir": str(images),
        "batch_size": BATCH,
        "resize": model.meta_input,
        "standardize_mode": model.meta_standardize,
        "image_format": "jpg",
        "loader": image_loader,
        "seed": seed,
    }
    (mine, mine_coded), (held, held_coded) = sampling_split(
        names, coded, sampling=[0.85, 0.15], stratified=True, iterative=True, seed=0
    )
    feed = DataGenerator(samples=mine, labels=mine_coded, shuffle=True, data_aug=shown, **of_all)
    check = DataGenerator(samples=held, labels=held_coded, shuffle=False, data_aug=shown, **of_all)
    best = folder / "best.weights.h5"
    story = model.train(
        feed,
        check,
        epochs=EPOCHS,
        callbacks=[
            UntilThen(60 * minutes),
            ModelCheckpoint(str(best), monitor="val_loss", save_best_only=True, save_weights_only=True),
            CSVLogger(str(folder / "log.csv"), append=True),
            ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=5, mode="min", min_lr=1e-7),
            EarlyStopping(monitor="val_loss", patience=12),
        ],
        transfer_learning=True,
    )
    model.model.load_weights(str(best))
    said = model.predict(DataGenerator(samples=judge["name"].tolist(), labels=None, shuffle=False, **of_all))
    frame = pd.DataFrame(said, columns=classes)
    frame.insert(0, "name", judge["name"].tolist())
    pd.DataFrame({name: pd.Series(values) for name, values in story.items()}).to_csv(folder / "history.csv")
    frame.to_csv(folder / "answers.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
