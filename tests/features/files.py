"""Files of features as the three tools write them, by plain h5py and from the tools' own sources."""

from pathlib import Path

import h5py
import numpy as np


def numbers(instances: int, width: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and level-0 coordinates."""
    rng = np.random.default_rng([seed, instances])
    return rng.normal(size=(instances, width)).astype("float32"), rng.integers(0, 40_000, (instances, 2))


def write_trident(path: Path, features: np.ndarray, coords: np.ndarray, encoder: str = "uni_v1") -> Path:
    """As trident.IO.save_h5 does: chunks of one row, attributes on both data sets."""
    attributes = {
        "features": {"name": path.stem, "savetodir": "out", "encoder": encoder},
        "coords": {
            "patch_size": 256,
            "patch_size_level0": 512,
            "level0_magnification": 40,
            "target_magnification": 20,
            "overlap": 0,
            "name": path.stem,
            "savetodir": "out",
        },
    }
    with h5py.File(path, "w") as file:
        for name, values in (("features", features), ("coords", coords)):
            shape = values.shape
            data = file.create_dataset(name, shape, values.dtype, maxshape=(None, *shape[1:]), chunks=(1, *shape[1:]))
            data[:] = values
            for key, value in attributes[name].items():
                data.attrs[key] = value
    return path


def write_clam(path: Path, features: np.ndarray, coords: np.ndarray) -> Path:
    """As CLAM's extract_features_fp does: no attributes at all, coordinates in int32."""
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "features", data=features, maxshape=(None, features.shape[1]), chunks=(1, features.shape[1])
        )
        file.create_dataset("coords", data=coords.astype("int32"), maxshape=(None, 2), chunks=(1, 2))
    return path


def write_stamp(path: Path, features: np.ndarray, coords_um: np.ndarray, **attributes: object) -> Path:
    """As STAMP 2's extract_ does: half precision, µm, attributes on the file."""
    usual = {"extractor": "ctranspath", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224, "feat_type": "tile"}
    with h5py.File(path, "w") as file:
        file["coords"] = coords_um.astype("float32")
        file["feats"] = features.astype("float16")
        for name, value in {"stamp_version": "2.3.0", **usual, **attributes}.items():
            if value is not None:
                file.attrs[name] = value
    return path
