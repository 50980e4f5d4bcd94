"""Outlines drawn by a pathologist: read from three programs, checked against the slide, measured in tiles.

Coordinates are level-0 pixels from the upper-left corner of the slide's bounds, in every format; `annotation_formats`
says how each is read. `slide_outlines` is the one way from a slide and a file to outlines: tiles, figures and `doctor`
see the same.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import atomic
from melano_tf.slides.annotation_formats import HOLE_CLASSES, Fault, Outline, read_outlines

MOST_VERTICES = 256  # a piece of an outline with more is halved before tiles are intersected with it
COLOURS = ((200, 0, 0), (150, 200, 150), (0, 110, 200), (230, 160, 0), (120, 80, 170), (90, 90, 90))


@dataclass(frozen=True)
class AnnotationSettings:
    """How outlines drawn on slides are read (QuPath, ASAP, ImageScope)."""

    tumour_classes: tuple[str, ...] = ()
    """Classes (QuPath), groups (ASAP) or layers (ImageScope) whose outlines are tumour, capitals aside; "" stands for
    outlines without one. Not given: all, with a warning where a file has more than one."""
    mend: bool = False
    """Take an outline that crosses itself as the area that its line encloses, with a note, instead of refusing it."""


AS_DRAWN = AnnotationSettings()


class OutlinedSlide(Protocol):
    """What outlines ask of a slide: its size, its bounds' corner in the file (level-0 px), its µm/px."""

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def origin(self) -> tuple[int, int]: ...
    @property
    def mpp(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Annotation:
    """What an annotation file holds.

    Attributes:
        geometry: the outlined area of the classes that are tumour, holes cut out; MultiPolygon in level-0 px.
        polygons: count of outlines read, without holes, of all classes.
        holes: count of outlines that were cut out of others (rings inside a GeoJSON polygon are not counted).
        classes: count of outlines by class, group or layer name ("" where none is given), without holes.
        areas: area of each of these classes, holes cut out, level-0 px²; classes may lie over each other.
        tumour: those of these classes that are tumour.
        skipped: count of what is no area or no outline, by its name in the file, for example {"Point": 2}.
        warnings: a line for each mended polygon and each hole that lies outside of every outline.
    """

    geometry: shapely.MultiPolygon
    polygons: int
    holes: int
    classes: Mapping[str, int]
    areas: Mapping[str, float]
    tumour: tuple[str, ...]
    skipped: Mapping[str, int]
    warnings: tuple[str, ...]

    def words(self, mpp: tuple[float, float]) -> str:
        """Each class with its outlines and area, for example "2 tumour (1.250 mm²), 1 Tissue (8.1 mm², not tumour)"."""
        mm2 = mpp[0] * mpp[1] / 1e6
        return ", ".join(
            f"{count} {name or 'without a class'} ({self.areas[name] * mm2:.3g} mm²"
            + (")" if name in self.tumour else ", not tumour)")
            for name, count in self.classes.items()
        )

    def notes(self, mpp: tuple[float, float]) -> list[str]:
        """What a person should know of the file: several classes taken as one, warnings, what was passed over."""
        several = []
        if len(self.tumour) > 1:
            several = [
                f"outlines of {len(self.tumour)} classes count as tumour: {self.words(mpp)}; "
                "say which do with --annotation.tumour-classes"
            ]
        skipped = [f"{count} {name} passed over" for name, count in sorted(self.skipped.items())]
        return [*several, *self.warnings, *skipped]


def slide_outlines(slide: OutlinedSlide, path: Path | str, settings: AnnotationSettings = AS_DRAWN) -> Annotation:
    """The outlines of a slide, as everything that uses them takes them: counted from its bounds, and on it.

    Raises:
        InputError: see `load_annotation` and `check_annotation`.
    """
    annotation = load_annotation(path, settings, slide.origin)
    check_annotation(annotation.geometry, slide.size, path)
    return annotation


def load_annotation(
    path: Path | str,
    settings: AnnotationSettings = AS_DRAWN,
    origin: tuple[float, float] = (0, 0),
    hole_classes: Collection[str] = HOLE_CLASSES,
) -> Annotation:
    """Read QuPath GeoJSON, ASAP XML or Aperio ImageScope XML, told apart by content.

    Args:
        path: the file.
        settings: which classes are tumour, and whether to mend.
        origin: (x, y) of the slide's bounds in the slide file's own level-0 px; some programs count from there.
        hole_classes: names in lower case of classes (QuPath) or groups (ASAP) that are cut out of the other outlines.

    Raises:
        InputError: the file is missing, empty, no such format or damaged, has no polygon or none of the tumour's
            classes, or has polygons that cross themselves, have fewer than three vertices or enclose nothing: all of
            them at once, each by its number.
    """
    path = Path(path)
    skipped: Counter[str] = Counter()
    warnings: list[str] = []
    try:
        outlines = list(read_outlines(path, skipped, warnings, origin, hole_classes))
        if not any(not outline.hole for outline in outlines):
            seen = ", ".join(f"{count} {name}" for name, count in sorted(skipped.items())) or "nothing else"
            raise Fault(
                f"holds no polygon ({seen}); leave the manifest's cell `annotation` empty where nothing is outlined"
            )
        spelt = _spelt(outlines)
        tumour = _tumour(list(dict.fromkeys(spelt.values())), settings.tumour_classes)
    except Fault as fault:
        raise InputError(f"{path}: {fault}") from None
    shapes, faults = _shapes(outlines, settings.mend, warnings)
    if faults:
        raise InputError(f"{path}: {faults[0]}") if len(faults) == 1 else InputError.of(f"{path}:", faults)
    pairs = list(zip(outlines, shapes, strict=True))
    by_class = {
        name: [pair for pair in pairs if pair[0].hole or spelt[pair[0].name.casefold()] == name]
        for name in dict.fromkeys(spelt.values())
    }
    chosen = [pair for pair in pairs if pair[0].hole or spelt[pair[0].name.casefold()] in tumour]
    geometry = _combine(chosen, warnings)
    if geometry.is_empty:
        raise InputError(f"{path}: its holes cut away every outline")
    return Annotation(
        geometry=geometry,
        polygons=sum(not outline.hole for outline in outlines),
        holes=sum(outline.hole for outline in outlines),
        classes=Counter(spelt[outline.name.casefold()] for outline in outlines if not outline.hole),
        areas={name: float(_combine(own, []).area) for name, own in by_class.items()},
        tumour=tumour,
        skipped=dict(skipped),
        warnings=tuple(warnings),
    )


def _spelt(outlines: list[Outline]) -> dict[str, str]:
    """{class in lower case: as the file first spells it} of all outlines that are no holes."""
    spelt: dict[str, str] = {}
    for outline in outlines:
        if not outline.hole:
            spelt.setdefault(outline.name.casefold(), outline.name)
    return spelt


def _tumour(classes: list[str], wanted: Collection[str]) -> tuple[str, ...]:
    """Those of the classes that are wanted, all where none is named. Raises Fault where there is none of them."""
    folded = {name.strip().casefold() for name in wanted}
    found = tuple(name for name in classes if not folded or name.casefold() in folded)
    if not found:
        raise Fault(
            f"has no outline of the class {' or '.join(map(repr, wanted))}, only of {', '.join(map(repr, classes))}; "
            "name the right ones with --annotation.tumour-classes, or leave the manifest's cell `annotation` empty"
        )
    return found


def _shapes(outlines: list[Outline], mend: bool, warnings: list[str]) -> tuple[list[BaseGeometry], list[str]]:
    """Each outline as a valid geometry, and the faults; polygons are numbered from 1 as in the file."""
    shapes: list[BaseGeometry] = []
    faults: list[str] = []
    for number, outline in enumerate(outlines, start=1):
        polygon = f"polygon {number}" + (f" ({outline.name})" if outline.name else "")
        short = [len(set(ring)) for ring in [outline.shell, *outline.inner] if len(set(ring)) < 3]
        if short:
            faults.append(f"{polygon} has a ring of {short[0]} different vertices; it needs three or more: remove it")
            continue
        shape: BaseGeometry = shapely.Polygon(outline.shell, outline.inner)
        if shapely.Polygon(outline.shell).convex_hull.area == 0:
            faults.append(f"{polygon} encloses no area, all its vertices lie on one line: remove it")
            continue
        if not shape.is_valid:
            wrong = _wrong(shape)
            if mend:
                shape = shapely.make_valid(shape, method="structure")
                warnings.append(f"{polygon} {wrong}; mended")
            else:
                faults.append(f"{polygon} {wrong}; redraw it there, or let it be mended (--annotation.mend)")
        shapes.append(shape)
    return shapes, faults


def _wrong(shape: BaseGeometry) -> str:
    reason, _, place = shapely.is_valid_reason(shape).partition("[")
    x, y, *_ = [*(float(part) for part in place.rstrip("]").split()), math.nan, math.nan]
    words = {
        "Self-intersection": "crosses itself",
        "Ring Self-intersection": "touches itself",
        "Hole lies outside shell": "has a hole outside of its outline",
        "Nested shells": "has one outline inside another",
        "Holes are nested": "has a hole inside a hole",
    }
    return f"{words.get(reason, reason.lower())} near x={x:.1f}, y={y:.1f}"


def _combine(drawn: list[tuple[Outline, BaseGeometry]], warnings: list[str]) -> shapely.MultiPolygon:
    """The union of the outlines without their holes; a hole cuts the outlines of its own layer only."""
    layers = []
    for layer in sorted({outline.layer for outline, _ in drawn if not outline.hole}):
        pairs = [pair for pair in drawn if pair[0].layer == layer]
        solid = shapely.union_all([shape for outline, shape in pairs if not outline.hole])
        holes = [shape for outline, shape in pairs if outline.hole]
        outside = sum(not shapely.intersects(solid, hole) for hole in holes)
        if outside:
            warnings.append(f"{outside} hole(s) lie outside of every outline and cut nothing")
        layers.append(shapely.difference(solid, shapely.union_all(holes)))
    return _areas(shapely.union_all(layers))


def _areas(geometry: BaseGeometry) -> shapely.MultiPolygon:
    parts = shapely.get_parts(geometry)
    # A mended shape can hold collections of polygons and lines.
    parts = shapely.get_parts(parts[shapely.get_dimensions(parts) == 2])
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def check_annotation(
    geometry: BaseGeometry, slide_size: tuple[int, int], path: Path | str, tolerance: float = 0.01
) -> None:
    """Refuse outlines that leave the slide.

    Args:
        geometry: outlined area, level-0 px.
        slide_size: (width, height) of the slide's bounds, level-0 px.
        path: the annotation file, for the message.
        tolerance: how far an outline may run over the edge, as a share of the slide's longer side: coarse outlines
            often do.

    Raises:
        InputError: one or more polygons reach further out.
    """
    width, height = slide_size
    slack = tolerance * max(width, height)
    parts = shapely.get_parts(geometry)
    x0, y0, x1, y1 = shapely.bounds(parts).T if len(parts) else np.empty((4, 0))
    outside = np.flatnonzero((x0 < -slack) | (y0 < -slack) | (x1 > width + slack) | (y1 > height + slack))
    if len(outside):
        boxes = "; ".join(f"x {x0[i]:.0f} to {x1[i]:.0f}, y {y0[i]:.0f} to {y1[i]:.0f}" for i in outside[:3])
        raise InputError(
            f"{path}: {len(outside)} of {len(parts)} polygons lie outside of the slide of {width} x {height} px "
            f"({boxes}{'; …' if len(outside) > 3 else ''}): drawn on another slide, or not in level-0 pixels?"
        )


def tumour_shares(geometry: BaseGeometry, boxes: np.ndarray) -> np.ndarray:
    """How much of each box the outlines cover.

    Args:
        geometry: outlined area, level-0 px.
        boxes: (n, 4) of x, y, width, height, level-0 px; widths and heights above 0.

    Returns:
        (n,) float64 from 0 to 1, rounded to 9 digits so that exactly half is 0.5.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    pieces = _pieces(geometry)
    if not len(boxes) or not pieces:
        return np.zeros(len(boxes))
    x, y, width, height = boxes.T
    squares = shapely.box(x, y, x + width, y + height)
    which_box, which_piece = shapely.STRtree(pieces).query(squares, predicate="intersects")
    areas = shapely.area(shapely.intersection(squares[which_box], np.asarray(pieces, dtype=object)[which_piece]))
    covered = np.bincount(which_box, weights=areas, minlength=len(boxes))
    return np.round(np.clip(covered / (width * height), 0.0, 1.0), 9)


def _pieces(geometry: BaseGeometry) -> list[BaseGeometry]:
    """The geometry cut into pieces of few vertices, so that a tile meets only the part of a long outline near it."""
    pieces, waiting = [], [(part, 0) for part in shapely.get_parts(geometry)]
    while waiting:
        piece, depth = waiting.pop()
        if shapely.get_num_coordinates(piece) <= MOST_VERTICES or depth > 30:
            pieces.append(piece)
            continue
        x0, y0, x1, y1 = piece.bounds
        if x1 - x0 > y1 - y0:
            halves = [shapely.box(x0, y0, (x0 + x1) / 2, y1), shapely.box((x0 + x1) / 2, y0, x1, y1)]
        else:
            halves = [shapely.box(x0, y0, x1, (y0 + y1) / 2), shapely.box(x0, (y0 + y1) / 2, x1, y1)]
        for half in halves:
            waiting += [(part, depth + 1) for part in _areas(shapely.intersection(piece, half)).geoms]
    return pieces


def write_tiles_geojson(
    path: Path,
    boxes: np.ndarray,
    values: Mapping[str, Any],
    colours: Mapping[str, tuple[int, int, int]] | None = None,
) -> None:
    """Write tiles as GeoJSON that QuPath opens (drag it onto the slide): one tile object for each box.

    Args:
        path: the file, written atomically.
        boxes: (n, 4) of x, y, width, height, level-0 px.
        values: arrays of n. Numbers become measurements (a value that is not finite is left out: JSON has none);
            strings become metadata, but for those under "classification", which become each tile's class ("": none).
        colours: (red, green, blue) of each class; by default some that differ.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    columns = {name: np.asarray(column) for name, column in values.items()}
    wrong = [name for name, column in columns.items() if column.shape != (len(boxes),)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not one value for each of the {len(boxes)} tiles")
    words = {
        name: [str(word) for word in columns.pop(name)] for name in list(columns) if columns[name].dtype.kind in "OUT"
    }
    classes = words.pop("classification", [""] * len(boxes))
    names = sorted(set(classes) - {""})
    palette = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)} | dict(colours or {})
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for i, (x, y, width, height) in enumerate(np.round(boxes, 3).tolist()):
            numbers = {name: float(column[i]) for name, column in columns.items() if math.isfinite(column[i])}
            properties: dict[str, Any] = {"objectType": "tile", "measurements": numbers}
            if classes[i]:
                properties["classification"] = {"name": classes[i], "color": list(palette[classes[i]])}
            if words:
                properties["metadata"] = {name: column[i] for name, column in words.items()}
            ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
            feature = {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": properties,
            }
            file.write((",\n" if i else "\n") + json.dumps(feature, ensure_ascii=False, allow_nan=False))
        file.write("\n]}\n")
