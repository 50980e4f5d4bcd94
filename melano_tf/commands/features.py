"""`features`: embeddings of slides' tiles by any Keras network, one file a slide, as TRIDENT writes them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from melano_tf.errors import InputError, RunError
from melano_tf.runs import journal
from melano_tf.slides.tiling import TileGrid

TABLE = "features.csv"


@dataclass(frozen=True)
class FeaturesSettings:
    """Features of slides: every tile with tissue goes through a network, and each slide's vectors go into a file.

    The files are laid out as TRIDENT's, so that TRIDENT's and CLAM's own readers take them, and `bags`. The same
    command again makes what is missing.
    """

    slides: Path
    """CSV with slide_id, path and optionally mpp (µm/px of level 0, where the file does not say it)."""
    out: Path
    """Folder of the files: <slide_id>.h5, and features.csv with what became of each slide."""
    encoder: str = "resnet50"
    """A network of keras.applications by its name, such as resnet50 or mobilenet."""
    model: Path | None = None
    """A .keras file that takes RGB tiles in 0..255, in the place of --encoder: its layer "embedding", or its output."""
    layer: str | None = None
    """Layer of --model whose output is taken."""
    weights: str = "imagenet"
    """Weights of --encoder: imagenet, none (random, for trials), or a file."""
    grid: TileGrid = field(default_factory=lambda: TileGrid(tile_px=256, mpp=0.5, overlap=0.0))
    """The tiles: their side in pixels and µm/px as the network sees them (TRIDENT's usual: 256 px at 20x)."""
    mask_mpp: float = 8.0
    """Resolution of the tissue mask in µm/px."""
    batch: int = 32
    """Tiles in the network at once."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the stored features (TRIDENT: float32; STAMP: float16)."""
    threads: int = 0
    """Threads of TensorFlow; 0: one a core."""


def features(settings: FeaturesSettings, say: Callable[[str], None]) -> Path:
    """Write the files; returns their folder.

    Raises:
        InputError: the list of slides or the network is wrong; every fault of the list at once.
        RunError: slides that could not be read; all others are done.
    """
    from tqdm import tqdm

    from melano_tf.pipelines.slide_features import SlideFeatureSettings, load_encoder, write_features
    from melano_tf.runs.atomic_files import write_csv
    from melano_tf.slides.slide_manifest import read_manifest
    from melano_tf.specs import load_spec
    from melano_tf.training.tensorflow_runtime import configure

    slides = read_manifest(settings.slides, load_spec("slides"))
    folders = sorted({Path(path).parent for path in slides["path"]})
    read = {"--slides": settings.slides, "--model": settings.model, "the slides' folder": folders}
    journal.refuse_mixing(settings.out, read)
    journal.check_free(settings.out, TABLE)
    configure(settings.threads)
    chosen = SlideFeatureSettings(
        encoder=settings.encoder if settings.model is None else str(settings.model),
        **{name: getattr(settings, name) for name in ("weights", "layer", "grid", "mask_mpp", "batch", "dtype")},
    )
    if settings.model is not None and settings.model.suffix != ".keras":
        raise InputError(f"--model {settings.model}: is no .keras file; a network by its name is --encoder")
    encoder = load_encoder(chosen)
    width = encoder.model.outputs[0].shape[-1]
    grid = settings.grid
    say(f"encoder   {encoder.name}: {width} numbers a tile of {grid.tile_px} px at {grid.mpp:g} µm/px")
    if encoder.input_px != grid.tile_px:
        say(f"  tiles are brought to the {encoder.input_px} px that it takes")
    journal.open_folder(settings.out)
    with tqdm(total=len(slides), desc="features", unit="slide", leave=False) as bar:
        outcomes = write_features(slides, chosen, settings.out, encoder, lambda done, total: bar.update(done - bar.n))
    write_csv(settings.out / TABLE, outcomes)
    counts = outcomes["status"].value_counts()
    words = ", ".join(f"{count} {status}" for status, count in counts.items())
    say(f"slides    {len(outcomes)}: {words}; {int(outcomes['tiles'].sum()):,} tiles in all")
    for row in outcomes.to_dict("records"):
        if row["notes"]:
            say(f"  note: {row['slide_id']}: {row['notes']}")
        if row["reason"]:
            say(f"  {row['status']}: {row['slide_id']}: {row['reason']}")
    say(f"features  {settings.out} (features.csv says what became of each slide)")
    if failed := int(counts.get("failed", 0)):
        raise RunError(
            f"{failed} of {len(outcomes)} slides failed; the others are done, the same command tries them again"
        )
    return settings.out
