"""One slide's file of features, as TRIDENT, CLAM or STAMP write it (`data_specs/features.yaml` has the formats).

Looking at a file reads no features; those are read row by row when they are asked for, and the file is closed again, so
that thousands of slides need no more memory and handles than one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from melano_tf.errors import InputError, line_of

Format = Literal["trident", "clam", "clam_pt", "stamp"]
Unit = Literal["px", "um", "unknown", "none"]
SUFFIXES = (".h5", ".hdf5", ".pt")
NAMES = ("features", "feats")
TRIDENT_ATTRIBUTES = {"patch_size_level0", "level0_magnification", "target_magnification"}
CHUNK = 4096  # rows read at a time where all are looked at


@dataclass(frozen=True)
class FeatureFile:
    """What is known of a file without reading its features.

    Attributes:
        path: the file.
        slide_id: its name without the suffix.
        format: who wrote it.
        instances: n, tiles.
        width: C, numbers of a feature vector.
        dtype: of the stored features.
        unit: of the coordinates: level-0 "px", "um", "unknown" (STAMP 1), or "none" where the file has none (.pt).
        tile_px: side of a tile in pixels as the encoder saw it (or as it was cut), None where the file does not say.
        tile_extent: side of a tile in the coordinates' unit along x and y, None where the file does not say.
        mpp: µm/px of a tile, None where the file does not say.
        encoder: name of the encoder, None where the file does not say.
    """

    path: Path
    slide_id: str
    format: Format
    instances: int
    width: int
    dtype: str
    unit: Unit
    tile_px: int | None = None
    tile_extent: tuple[float, float] | None = None
    mpp: float | None = None
    encoder: str | None = None

    def features(self, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Features of all tiles, or of some (ascending places), in the stored dtype (n, C).

        Raises:
            InputError: the file cannot be read any more.
        """
        if self.format == "clam_pt":
            tensor = _tensor(self.path)
            return tensor if rows is None else tensor[rows]
        return self._rows(self._features_name, rows)

    def coordinates(self) -> NDArray[np.float64] | None:
        """Upper left corners of the tiles, (n, 2) x, y in `unit`; None where the file has none."""
        return None if self.unit == "none" else self._rows("coords", None).astype(np.float64)

    def check(self) -> list[str]:
        """Faults of the features themselves, read in pieces: NaN and infinite values, coordinates as well."""
        faults = []
        broken = 0
        for part in self.parts():
            broken += int((~np.isfinite(part.astype(np.float32))).any(axis=1).sum())
        if broken:
            faults.append(f"{self.path}: {broken} of {self.instances} tiles have features that are NaN or infinite")
        coords = self.coordinates()
        if coords is not None and not np.isfinite(coords).all():
            faults.append(f"{self.path}: coordinates that are NaN or infinite")
        return faults

    def parts(self) -> Iterator[NDArray[Any]]:
        """The features some thousand rows at a time."""
        if self.format == "clam_pt":
            yield self.features()
            return
        with _opened(self.path) as file:
            data = file[self._features_name]
            for start in range(0, self.instances, CHUNK):
                yield _flat(data[..., start : start + CHUNK, :])

    @property
    def _features_name(self) -> str:
        return "feats" if self.format == "stamp" else "features"

    def _rows(self, name: str, rows: NDArray[np.int64] | None) -> NDArray[Any]:
        with _opened(self.path) as file:
            data = file[name]
            if rows is None or len(rows) > self.instances // 4:
                everything = _flat(data[:])
                return everything if rows is None else everything[rows]
            # HDF5 is slow at picking scattered rows; runs of neighbours are read as one.
            parts = [_flat(data[..., run, :]) for run in _runs(rows)]
            return np.concatenate(parts) if parts else np.zeros((0, data.shape[-1]), data.dtype)


def open_features(path: Path | str) -> FeatureFile:
    """Look at a file of features.

    Raises:
        InputError: no such file, none of the formats, no coordinates, coordinates of another number than features, no
            instances; or a `.pt` file without torch.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of features")
    if path.suffix == ".pt":
        tensor = _tensor(path)
        shape = (len(tensor), tensor.shape[1])
        return FeatureFile(path, path.stem, "clam_pt", *shape, str(tensor.dtype), "none")
    with _opened(path) as file:
        return _described(path, file)


def _described(path: Path, file: h5py.File) -> FeatureFile:
    found = [name for name in NAMES if isinstance(file.get(name), h5py.Dataset)]
    if not found:
        there = ", ".join(file) or "nothing"
        hint = "; it holds coordinates only, run the tool's feature extraction" if "coords" in file else ""
        raise InputError(f"{path}: holds no `features` (TRIDENT, CLAM) and no `feats` (STAMP), but {there}{hint}")
    data, format_ = file[found[0]], _format(found[0], file)
    if str(file.attrs.get("feat_type", "tile")) != "tile":
        raise InputError(f"{path}: features of a whole {file.attrs['feat_type']} (feat_type), not of its tiles")
    shape = data.shape[1:] if len(data.shape) == 3 and data.shape[0] == 1 else data.shape
    if len(shape) != 2 or data.dtype.kind != "f":
        raise InputError(f"{path}: {found[0]} is {data.dtype} {data.shape}; floats (tiles, numbers) are expected")
    if shape[0] == 0 or shape[1] == 0:
        raise InputError(f"{path}: {found[0]} is {data.shape}: 0 instances; remove the file, or extract it again")
    if not isinstance(file.get("coords"), h5py.Dataset):
        raise InputError(f"{path}: no `coords` beside `{found[0]}`; extract it again with its tool")
    coords = file["coords"].shape
    if (coords[1:] if len(coords) == 3 and coords[0] == 1 else coords) != (shape[0], 2):
        raise InputError(f"{path}: coords are {coords} but {found[0]} {data.shape}; one x, y for each tile is expected")
    blank = FeatureFile(path, path.stem, format_, shape[0], shape[1], str(data.dtype), "px")
    return _sized(blank, file.attrs, file["coords"].attrs, data.attrs)


def _format(name: str, file: h5py.File) -> Format:
    if name == "feats":
        return "stamp"
    attributes = file["coords"].attrs if isinstance(file.get("coords"), h5py.Dataset) else {}
    return "trident" if TRIDENT_ATTRIBUTES & set(attributes) else "clam"


def _sized(
    blank: FeatureFile, root: Mapping[str, Any], coords: Mapping[str, Any], data: Mapping[str, Any]
) -> FeatureFile:
    """The file with what its trusted attributes say."""
    if blank.format == "stamp":
        microns = root.get("tile_size_um", root.get("tile_size") if root.get("unit") == "um" else None)
        if microns is None:
            return replace(blank, unit="unknown", encoder=_text(root.get("extractor")))
        side, px = float(microns), root.get("tile_size_px")
        return replace(
            blank,
            unit="um",
            tile_extent=(side, side),
            tile_px=None if px is None else int(px),
            mpp=None if px is None else side / float(px),
            encoder=_text(root.get("extractor")),
        )
    px, mpp = coords.get("patch_size"), coords.get("mpp")
    blank = replace(
        blank,
        tile_px=None if px is None else int(px),
        encoder=_text(data.get("encoder")),
        mpp=None if mpp is None else float(mpp),
    )
    if "patch_size_level0" in coords:
        side = float(coords["patch_size_level0"])
        return replace(blank, tile_extent=(side, side))
    if px is not None and "downsample" in coords:
        x, y = np.broadcast_to(np.asarray(coords["downsample"], float), (2,))
        return replace(blank, tile_extent=(float(px) * float(x), float(px) * float(y)))
    return blank


def _text(value: Any) -> str | None:
    """An attribute as text; TRIDENT writes the text "None" for none."""
    if value is None:
        return None
    text = value.decode() if isinstance(value, bytes) else str(value)
    return None if text in ("", "None") else text


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """(n, C) of (n, C) or (1, n, C)."""
    return np.asarray(values[0] if values.ndim == 3 else values)


def _runs(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Ascending places as slices of neighbours."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for part in np.split(rows, breaks):
        if len(part):
            yield slice(int(part[0]), int(part[-1]) + 1)


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path}: is no HDF5 file that can be read ({line_of(error)}); copy or extract it again"
        ) from None


def _tensor(path: Path) -> NDArray[Any]:
    """The tensor of a `.pt` file, (n, C)."""
    try:
        import torch  # type: ignore[import-not-found]
    except ImportError:
        raise InputError(
            f"{path}: reading .pt files needs torch, which is not installed here; give the folder of .h5 files that "
            "CLAM wrote beside them (h5_files), or install torch"
        ) from None
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
        values = np.asarray(tensor.float().numpy())
    except Exception as error:
        raise InputError(f"{path}: holds no tensor that torch can read ({line_of(error)})") from None
    if values.ndim != 2 or not values.size:
        raise InputError(
            f"{path}: a tensor {values.shape}; floats (tiles, numbers) with at least one tile are expected"
        )
    return values
