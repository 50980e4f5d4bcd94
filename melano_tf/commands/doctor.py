"""`doctor`: what this machine has, and what is wrong with a manifest before hours are spent on it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

from melano_tf.commands.rates import measure_rates
from melano_tf.environment import cores, environment
from melano_tf.errors import InputError
from melano_tf.pipelines.npy_rows import SHARD_NAME, shard_fault, without_checksums
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.runs.file_integrity import faults as damaged_files
from melano_tf.runs.file_integrity import mapping
from melano_tf.runs.session_checksums import SHOWN_AFTER_S
from melano_tf.slides.annotations import AnnotationSettings, slide_outlines
from melano_tf.slides.magnifications import TileGrids
from melano_tf.slides.slide_manifest import read_manifest, same_file_groups
from melano_tf.slides.tiling import FINER, TileGrid, refusal
from melano_tf.specs import load_spec

GIB = 1024**3
PAPERS: tuple[Literal["spitzoid", "multimag"], ...] = ("spitzoid", "multimag")


@dataclass(frozen=True)
class DoctorSettings:
    """Versions, devices, threads, OpenSlide, free disk, memory; what is wrong with a --slides file, or with a run.

    Given neither, also how fast this machine writes, decodes and trains."""

    slides: Path | None = None
    """Manifest of slides to examine (CSV)."""
    paper: Literal["spitzoid", "multimag"] | None = None
    """The recipe that the manifest is for: its labels, and the resolutions that it needs. Not given: the one whose
    labels it has."""
    annotation: AnnotationSettings = field(default_factory=AnnotationSettings)
    """How outlines drawn on slides are read, as in the recipes."""
    run: Path | None = None
    """A run's folder: every file that its steps wrote is read, and its decoded images, and compared with the checksum
    that was recorded."""
    out: Path = Path()
    """Where a run would write; its free disk space is shown."""


def examine(settings: DoctorSettings, say: Callable[[str], None]) -> int:
    """Print what this machine has and what is wrong with the manifest; returns 0 if a run could start, else 2."""
    facts = environment(threads=cores())
    say(f"melano_tf {facts['melano_tf']}, Python {facts['python']} on {facts['platform']}")
    for name, version in facts["packages"].items():
        say(f"  {name:<24} {version}")
    faults = _machine(settings.out, say)
    if settings.slides is None and settings.run is None and not faults:
        measure_rates(_existing(settings.out), say)
    if settings.slides is not None:
        faults += _slides(settings.slides, settings, say)
    if settings.run is not None:
        damaged = damaged_files(settings.run)
        say(f"{settings.run}: every recorded file read and compared; {len(damaged)} not as written")
        faults += [f"{settings.run / name}: {why}" for name, why in damaged]
        faults += _shards(settings.run, say)
    for fault in faults:
        say(f"  WRONG  {fault}")
    say("nothing wrong was found" if not faults else f"{len(faults)} fault(s); mend them before a run")
    return 2 if faults else 0


def _shards(run: Path, say: Callable[[str], None]) -> list[str]:
    """What is wrong with decoded images, and features of them: a run's own, and those of the folder that it shares.

    They are known by their names, for a copy of a run may lack the journal, which is a hidden file.
    """
    settings = mapping(run / "run.json").get("settings")
    given = settings.get("cache") if isinstance(settings, dict) else None
    folders = [run / "images", run / "features"]
    if isinstance(given, str):
        folders += [Path(given), Path(given) / "features"]
        if not Path(given).is_dir():
            say(f"{run}: its --cache {given} is not found from here; the decoded images in it are not compared")
    listed = [path.with_suffix(".npy") for folder in folders for path in sorted(folder.glob("*.json"))]
    found = [path for path in listed if SHARD_NAME.fullmatch(path.name)]
    older = frozenset(filter(without_checksums, found))  # in a shared folder also those of other runs
    with tqdm(found, desc="decoded images", unit="file", leave=False, delay=SHOWN_AFTER_S) as bar:
        wrong = [(path, why) for path in bar if path not in older and (why := shard_fault(path))]
    if found:
        compared = f"{len(found) - len(older)} files of decoded images read and compared; {len(wrong)} not as written"
        left = f"; {len(older)} of an earlier version have no checksums" if older else ""
        say(f"{run}: {compared}{left}")
    return [f"{path}: {why}" for path, why in wrong]


def _machine(out: Path, say: Callable[[str], None]) -> list[str]:
    import keras
    import openslide
    import tensorflow as tf

    faults = []
    say(f"OpenSlide library        {openslide.__library_version__}")
    say(f"Keras backend            {keras.backend.backend()}")
    if keras.backend.backend() != "tensorflow":
        faults.append("training needs Keras's TensorFlow backend: unset KERAS_BACKEND")
    for device in tf.config.list_physical_devices():
        say(f"device                   {device.device_type} {device.name}")
    say(f"processor                {environment(0)['processor']}, {_cores_told()}")
    say(f"threads                  {cores()} unless --threads says otherwise")
    memory = available_memory()
    if memory is not None:
        say(f"free memory              {memory / GIB:.1f} GiB")
        if memory < 4 * GIB:
            faults.append("less than 4 GiB of memory is free; a VGG16 bag step alone takes about 3")
    folder = _existing(out)
    disk = shutil.disk_usage(folder).free
    say(f"free disk at {folder}  {disk / GIB:.1f} GiB")
    if disk < 2 * GIB:
        faults.append(f"less than 2 GiB of disk is free at {folder}")
    if not os.access(folder, os.W_OK):
        faults.append(f"{folder} cannot be written; choose another --out")
    return faults


def _cores_told() -> str:
    """How many there are, and how many of them this process may use."""
    there, own = os.cpu_count() or 1, cores()
    return f"{there} cores" + (f", of which this process may use {own}" if own < there else "")


def _existing(out: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(parent for parent in (out.resolve(), *out.resolve().parents) if parent.exists())


def available_memory() -> int | None:
    """Bytes of memory that a process could still take, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(sizes["MemAvailable"]) * 1024 if "MemAvailable" in sizes else None


def _manifest(path: Path, paper: str | None) -> tuple[str, pd.DataFrame]:
    """The manifest, and the recipe that it is for: the given one, or the one that finds least wrong with it."""
    refused: list[InputError] = []
    for name in [paper] if paper else PAPERS:
        try:
            return name, read_manifest(path, load_spec(name))
        except InputError as error:
            refused.append(error)
    raise min(refused, key=lambda error: len(str(error).splitlines()))


def _slides(path: Path, settings: DoctorSettings, say: Callable[[str], None]) -> list[str]:
    try:
        paper, manifest = _manifest(path, settings.paper)
    except InputError as error:
        headline, *each = str(error).splitlines()
        if not each:
            return [headline]
        say(headline)
        return [line.strip().removeprefix("- ") for line in each]
    patients = manifest.groupby("label")["patient_id"].nunique()
    say(f"{path}: {len(manifest)} slides of {manifest['patient_id'].nunique()} patients, as {paper} wants them")
    for label, count in patients.items():
        say(f"  {label:<22} {count} patients")
    faults = [f"slides {', '.join(group)} are one file under several names" for group in same_file_groups(manifest)]
    for row in manifest.to_dict("records"):
        try:
            faults += _slide({str(name): value for name, value in row.items()}, paper, settings.annotation, say)
        except InputError as error:
            faults.append(f"{row['slide_id']}: {error}")
    return faults


def _slide(row: dict[str, Any], paper: str, drawn: AnnotationSettings, say: Callable[[str], None]) -> list[str]:
    """Open a slide and read its outlines; say what they are, and return what is wrong.

    Raises:
        InputError: the slide or its outlines cannot be used at all.
    """
    faults: list[str] = []
    mpp = row["mpp"] if row["mpp"] == row["mpp"] else None
    with SlideApart(row["path"], slide_id=row["slide_id"], mpp=mpp) as slide:
        slide.read(0, 0, 64, max(slide.mpp))
        say(f"  {row['slide_id']:<22} {slide.size[0]} x {slide.size[1]} px at {slide.mpp[0]:.3f} µm/px")
        notes = [slide.mpp_note] if slide.mpp_note else []
        faults += _too_coarse(row["slide_id"], paper, slide.mpp, say)
        if row["annotation"]:
            outlines = slide_outlines(slide, row["annotation"], drawn)
            say(f"  {'':<22} outlines: {outlines.words(slide.mpp)}")
            notes += outlines.notes(slide.mpp)
    for note in notes:
        say(f"  {'':<22} note: {note}")
    return faults


def _too_coarse(slide_id: str, paper: str, mpp: tuple[float, float], say: Callable[[str], None]) -> list[str]:
    """Say which of the paper's magnifications the slide is too coarse for; a fault if it is for all of them."""
    if paper == "spitzoid":
        why = refusal(mpp, TileGrid().mpp)
        return [f"{slide_id}: {why}; {FINER}"] if why else []
    grids = TileGrids()
    refused = grids.refusals(mpp)
    if len(refused) == len(grids.names):
        return [f"{slide_id}: no magnification is possible: {next(iter(refused.values()))}"]
    for name, why in refused.items():
        say(f"  {'':<22} not at {name}: {why}")
    return []
