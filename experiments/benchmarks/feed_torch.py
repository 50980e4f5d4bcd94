# The peer of feed.py, in an environment of its own (peers.sh): JPEGs decoded by OpenCV, augmented by albumentations,
# collected by torch's DataLoader. Prints the images a second of each repeat, as JSON.
import json
import sys
import time
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch


class Images(torch.utils.data.Dataset):
    """A folder's JPEGs, changed at random."""

    def __init__(self, folder: Path, change: Any) -> None:
        self.files, self.change = sorted(folder.glob("*.jpg")), change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        image = cv2.cvtColor(cv2.imread(str(self.files[index])), cv2.COLOR_BGR2RGB)
        return torch.from_numpy(np.ascontiguousarray(self.change(image=image)["image"]))


def main() -> None:
    folder, kind, px, batch, workers, repeats = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
    cv2.setNumThreads(0)
    changes = {
        "pictures": [
            A.RandomResizedCrop(size=(px, px), scale=(0.64, 1.0), ratio=(1.0, 1.0)),
            A.Rotate(limit=30, border_mode=cv2.BORDER_REFLECT_101, p=1.0),
            A.HorizontalFlip(p=0.5),
        ],
        "tiles": [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)],
    }[kind]
    images = Images(Path(folder), A.Compose(changes))
    loader = torch.utils.data.DataLoader(
        images, batch, shuffle=True, num_workers=workers, persistent_workers=True, drop_last=True
    )
    rates = []
    for _ in range(repeats + 1):  # the first epoch starts the workers
        started, count = time.perf_counter(), 0
        for found in loader:
            count += len(found)
        rates.append(count / (time.perf_counter() - started))
    sys.stdout.write(json.dumps(rates[1:]) + "\n")


if __name__ == "__main__":
    main()
