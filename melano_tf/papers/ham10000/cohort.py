"""The images of HAM10000 and their lesion-grouped folds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.dermoscopy.isic import read_isic2018
from melano_tf.papers.ham10000.settings import CLASSES, Settings
from melano_tf.papers.notebook import say
from melano_tf.phantoms.skin.data_sets import draw_dermoscopy
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings
from melano_tf.pipelines.images import ImageCache, cache_images
from melano_tf.runs import predictions
from melano_tf.runs.plain import digest, seed_for
from melano_tf.runs.predictions import VALIDATION
from melano_tf.runs.run import Run
from melano_tf.splits.folds import grouped_folds
from melano_tf.splits.groups import owner_groups


@dataclass(frozen=True)
class Ham10000Images:
    """The images: `records` with columns image_id, target, group (lesion) and fold; `images` their pixels."""

    records: pd.DataFrame
    images: ImageCache
    key: str

    def names(self, rows: np.ndarray) -> list[str]:
        """Image ids of rows."""
        return self.records["image_id"].to_numpy()[rows].tolist()

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Class indices of rows."""
        return self.records["target"].to_numpy()[rows]

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Images of each class among rows."""
        return np.bincount(self.targets(rows), minlength=len(CLASSES))


def read_cohort(run: Run, settings: Settings) -> Ham10000Images:
    """The images and their folds; phantoms where no data are given."""
    data = settings.data
    if data is None:
        phantom = PhantomDermoscopySettings(layout="isic2018", patients=40, height_px=64)
        records, _ = draw_dermoscopy(run.folder / "phantom", phantom, settings.seed).read()
    else:
        records, findings = read_isic2018(data / "train_200x150", metadata=data / "HAM10000_metadata.csv")
        for line in findings.lines():
            say(f"  {line}")
    records = records[records["path"].notna()].reset_index(drop=True)
    files = dict(zip(records["image_id"], map(Path, records["path"]), strict=True))
    sums = run.checksums(files.values())
    by_name = {name: sums[str(file)] for name, file in files.items()}
    images = cache_images(files, by_name, settings.store, run.folder / "images")
    groups = owner_groups(records["lesion"].tolist(), records["image_id"].tolist())
    fold = grouped_folds(groups, records["label"].tolist(), settings.folds, seed_for(settings.seed, "folds"))
    records = records.assign(group=groups, fold=fold)
    say(f"images    {len(records):,} of {len(set(groups)):,} lesions; folds of {np.bincount(fold).tolist()}")
    key = digest([by_name, settings.store.identity(), fold.tolist(), records["target"].tolist()])
    return Ham10000Images(records, images, key)


def write_predictions(cohort: Ham10000Images, rows: np.ndarray, found: dict[str, np.ndarray], path: Path) -> None:
    """Predictions of images (`runs.predictions`) by the last kind of answer, and of each kind one column a class."""
    table = cohort.records.iloc[rows][["image_id", "group", "target"]].reset_index(drop=True)
    for kind, values in found.items():
        table = table.assign(**{f"{kind}{name}": values[:, place] for place, name in enumerate(CLASSES)})
    rows_of_form = table.assign(case=table["image_id"], part="held out" if "held-out" in path.stem else VALIDATION)
    predictions.write_predictions(path, predictions.predictions(rows_of_form, values, CLASSES))


def scores(table: pd.DataFrame, kind: str = "") -> np.ndarray:
    """One kind of answer of a table of predictions, (n, 7)."""
    return table[[f"{kind}{name}" for name in CLASSES]].to_numpy(np.float64)
