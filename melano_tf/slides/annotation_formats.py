"""The files of three programs that draw outlines on slides, read as plain rings of points; see `annotations`.

- QuPath GeoJSON: a FeatureCollection, a bare list, one Feature or a bare geometry; Polygon and MultiPolygon with holes,
  also inside a GeometryCollection. Detections, cells, tiles and cores are objects that a program made, not outlines:
  skipped and counted.
- ASAP XML: Polygon, Spline (its control points joined by straight lines) and Rectangle. The format has no holes; by
  custom a hole is an outline of its own in a group for it. See `HOLE_CLASSES`.
- Aperio ImageScope XML: Region elements of type 0 (polygon), 1 (rectangle) and 2 (ellipse, stored as the corners of
  its bounding box); a Region with NegativeROA="1" is a hole in the outlines of its own layer.

Points, lines and unknown shapes are skipped and counted.

What the coordinates count from, on a slide with `openslide.bounds-*` (MIRAX, Leica SCN). Here all count from the upper
left of the bounds, as `slide.Slide` does:
- QuPath, from 0.2 on, crops to the bounds and counts from them, unless a slide was opened with `--no-crop` (up to 0.1.2
  it did not crop): qupath/qupath, `OpenslideImageServer.java` (`readTile` adds boundsX, boundsY) and issues 820, 1278.
  Taken as it is.
- ASAP reads with OpenSlide's own dimensions and locations and knows no bounds, so that it counts from the file's
  origin: computationalpathologygroup/ASAP, `multiresolutionimageinterface/OpenSlideImage.cpp` (`initializeType`,
  `readDataFromImage`). The bounds' corner is subtracted.
- ImageScope shows the scanned pixels alone (of Leica-1.scn 38432 x 36832, OpenSlide's bounds: qupath/qupath, issue
  1278) and does not open MIRAX. Taken as it is, with a warning, because it shows SCN turned by a quarter (the two
  numbers stand the other way round in the file) and no example says whether its XML is turned too.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

HOLE_CLASSES = frozenset({"hole", "holes", "exclude", "excluded", "exclusion", "ignore", "ignore*"})
"""Names (in lower case) of an ASAP group or a QuPath class whose outlines are cut out of all others."""

QUPATH_MADE = frozenset({"detection", "cell", "tile", "tmacore", "tma_core", "root"})
# Version 0.2 wrote an object's type as its id.
QUPATH_MADE_02 = frozenset({"PathDetectionObject", "PathCellObject", "PathTileObject", "TMACoreObject"})
ASAP_AREAS = frozenset({"Polygon", "Spline", "Rectangle"})
IMAGESCOPE_SKIPPED = {"3": "arrow", "4": "ruler"}

Point = tuple[float, float]


@dataclass(frozen=True)
class Outline:
    """One closed line as it stands in a file, not yet checked.

    Attributes:
        shell: its points, level-0 px; the first may be repeated at the end.
        inner: rings cut out of it (GeoJSON only).
        name: class (QuPath), group (ASAP) or layer (ImageScope); "" where none is given.
        hole: it is cut out of the other outlines of the same layer.
        layer: ImageScope's layer, counted from 0; 0 in the other formats.
    """

    shell: list[Point]
    inner: list[list[Point]] = field(default_factory=list)
    name: str = ""
    hole: bool = False
    layer: int = 0


class Fault(ValueError):
    """One thing that is wrong with a file, without the file's path."""


def _file_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Fault(f"cannot be read ({error.strerror or error})") from None
    if not content.strip():
        raise Fault("is an empty file; export the annotation again")
    return content


def read_outlines(
    path: Path,
    skipped: Counter[str],
    warnings: list[str],
    origin: tuple[float, float] = (0, 0),
    hole_classes: Collection[str] = HOLE_CLASSES,
) -> Iterator[Outline]:
    """The outlines of a file in its order, its format told by its content.

    Args:
        path: the file.
        skipped: what is no outline is counted here.
        warnings: what a person should look at is added here.
        origin: (x, y) of the slide's bounds in the file's own level-0 px, see above.
        hole_classes: see `HOLE_CLASSES`.

    Raises:
        Fault: the file cannot be read, is no such format, or is damaged.
    """
    content = _file_bytes(path)
    start = content[:200].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1]
    if start in (b"{", b"["):
        return _read_geojson(content, skipped, hole_classes)
    if start == b"<":
        root = parse_xml(content)
        if root.tag == "ASAP_Annotations":
            return _read_asap(root, skipped, origin, hole_classes)
        if root.tag == "Annotations":
            if any(origin):
                warnings.append(
                    "ImageScope's outlines on a slide with bounds were taken to count from the bounds, not turned; "
                    "look at them on the slide"
                )
            return _read_imagescope(root, skipped)
        raise Fault(f"is XML with the root <{root.tag}>, neither ASAP's nor ImageScope's")
    raise Fault("is neither JSON nor XML; export it as QuPath GeoJSON (not zipped), ASAP XML or ImageScope XML")


def parse_xml(content: bytes) -> Element:
    """The root element of an XML file that declares no document type, hence no entities of its own.

    Without a document type there is nothing to expand (no "billion laughs") and nothing to fetch.

    Raises:
        ValueError: damaged XML, or a document type declaration.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise Fault("is XML with a document type (DOCTYPE), which annotations never have; it is not read")

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:
        raise Fault(f"is damaged XML ({error})") from None
    return builder.close()


def _number(text: Any, what: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if isinstance(text, bool) or not math.isfinite(value):
        raise Fault(f"{what} {text!r} is not a number")
    return value


def _read_geojson(content: bytes, skipped: Counter[str], hole_classes: Collection[str]) -> Iterator[Outline]:
    try:
        root = json.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise Fault(f"is damaged JSON ({error})") from None
    features = root if isinstance(root, list) else [root]
    if not isinstance(root, list) and root.get("type") == "FeatureCollection":
        features = _list(root.get("features"), "`features`")
    for number, feature in enumerate(features, start=1):
        try:
            yield from _read_feature(feature, skipped, hole_classes)
        except (Fault, RecursionError) as fault:
            raise Fault(f"feature {number}: {fault}") from None


def _read_feature(feature: Any, skipped: Counter[str], hole_classes: Collection[str]) -> Iterator[Outline]:
    if not isinstance(feature, dict) or not isinstance(feature.get("type"), str):
        raise Fault("is not GeoJSON: it has no `type`")
    if feature["type"] != "Feature":
        yield from _read_geometry(feature, "", skipped, hole_classes)
        return
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise Fault("its `properties` are not an object")
    kind = str(properties.get("objectType", properties.get("object_type", "annotation")))
    if kind.casefold() in QUPATH_MADE or str(feature.get("id")) in QUPATH_MADE_02:
        skipped[kind if kind.casefold() in QUPATH_MADE else str(feature["id"])] += 1
    else:
        given = properties.get("classification")
        # Older versions write one name, newer ones may write the list of a derived class's names.
        if isinstance(given, dict):
            given = given.get("name") or ": ".join(map(str, _list(given.get("names") or [], "`names`")))
        yield from _read_geometry(feature.get("geometry"), str(given or ""), skipped, hole_classes)
    # An export "with hierarchy" nests an object's children in its properties.
    for child in _list(properties.get("childObjects") or [], "`childObjects`"):
        yield from _read_feature(child, skipped, hole_classes)


def _read_geometry(geometry: Any, name: str, skipped: Counter[str], hole_classes: Collection[str]) -> Iterator[Outline]:
    if not isinstance(geometry, dict):
        skipped["no geometry"] += 1
        return
    kind, coordinates = str(geometry.get("type")), geometry.get("coordinates")
    if kind == "GeometryCollection":
        for part in _list(geometry.get("geometries"), "`geometries`"):
            yield from _read_geometry(part, name, skipped, hole_classes)
    elif kind in ("Polygon", "MultiPolygon"):
        for rings in [coordinates] if kind == "Polygon" else _list(coordinates, "`coordinates`"):
            shell, *inner = [[_position(at) for at in _list(ring, "a ring")] for ring in _list(rings, "a polygon")] or [
                []
            ]
            yield Outline(shell, inner, name, hole=name.casefold() in hole_classes)
    else:
        skipped[kind] += 1


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Fault(f"{what} should be a list, found {str(value)[:40]!r}")
    return value


def _position(position: Any) -> Point:
    if len(_list(position, "a position")) < 2:
        raise Fault(f"position {position!r} has no x and y")
    return _number(position[0], "coordinate"), _number(position[1], "coordinate")


def _read_asap(
    root: Element, skipped: Counter[str], origin: tuple[float, float], hole_classes: Collection[str]
) -> Iterator[Outline]:
    for number, element in enumerate(root.iter("Annotation"), start=1):
        kind, group = element.get("Type", "no type"), element.get("PartOfGroup", "")
        if kind not in ASAP_AREAS:
            skipped[kind] += 1
            continue
        corners = list(element.iter("Coordinate"))
        if all(corner.get("Order") is not None for corner in corners):
            corners.sort(key=lambda corner: _number(corner.get("Order"), "Order"))
        name = "" if group == "None" else group
        shell = [(x - origin[0], y - origin[1]) for x, y in _vertices(corners, f"annotation {number}")]
        yield Outline(shell, [], name, name.casefold() in hole_classes)


def _read_imagescope(root: Element, skipped: Counter[str]) -> Iterator[Outline]:
    for layer, element in enumerate(root.iter("Annotation")):
        for number, region in enumerate(element.iter("Region"), start=1):
            where = f"layer {layer + 1}, region {number}"
            kind, negative = region.get("Type", "0"), region.get("NegativeROA", "0")
            if kind not in ("0", "1", "2"):
                skipped[IMAGESCOPE_SKIPPED.get(kind, f"region of type {kind}")] += 1
                continue
            if negative not in ("0", "1"):
                raise Fault(f'{where}: NegativeROA="{negative}" is neither 0 nor 1')
            shell = _vertices(region.iter("Vertex"), where)
            if kind == "2":
                shell = _ellipse(shell, where)
            elif kind == "1" and len(shell) == 2:
                (left, top), (right, bottom) = shell
                shell = [(left, top), (right, top), (right, bottom), (left, bottom)]
            yield Outline(shell, [], element.get("Name") or "", negative == "1", layer)


def _vertices(elements: Iterable[Element], where: str) -> list[Point]:
    return [
        (_number(element.get("X"), f"{where}: X ="), _number(element.get("Y"), f"{where}: Y =")) for element in elements
    ]


def _ellipse(corners: list[Point], where: str) -> list[Point]:
    if len(corners) < 2:
        raise Fault(f"{where}: an ellipse needs the two corners of its box, it has {len(corners)}")
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    angle = np.linspace(0.0, 2.0 * np.pi, 180, endpoint=False)
    ring = (low + high) / 2 + (high - low) / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [(float(x), float(y)) for x, y in ring]
