import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from melano_tf.errors import InputError
from melano_tf.slides.annotation_formats import parse_xml
from melano_tf.slides.annotations import (
    AnnotationSettings,
    check_annotation,
    load_annotation,
    slide_outlines,
    tumour_shares,
    write_tiles_geojson,
)

MEND = AnnotationSettings(mend=True)

SHELL = [(100, 100), (500, 100), (500, 400), (300, 450), (100, 400)]
HOLE = [(200, 200), (300, 200), (300, 300), (200, 300)]
BOXES = np.array([[100, 100, 100, 100], [200, 200, 100, 100], [150, 150, 100, 100], [0, 0, 100, 100], [0, 0, 600, 600]])
# Shoelace: the shell is a rectangle of 400 x 300 and a triangle of 400 x 50 / 2; the hole takes 100 x 100.
SHARES = [1.0, 0.0, 0.75, 0.0, (120_000 + 10_000 - 10_000) / 360_000]
BOW_TIE = [(0, 0), (20, 20), (20, 0), (0, 20)]


def read_annotation(path: Path, *options: Any, **named: Any) -> Any:
    return load_annotation(path, *options, **named).geometry


def ring(points: list[tuple[float, float]]) -> list[list[float]]:
    return [list(point) for point in [*points, points[0]]]


def feature(kind: str, coordinates: object, **properties: object) -> dict:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


POLYGON = feature("Polygon", [ring(SHELL), ring(HOLE)], objectType="annotation", classification={"name": "Tumor"})
MULTI = feature("MultiPolygon", [[ring(SHELL), ring(HOLE)], [ring([(900, 900), (950, 900), (950, 950)])]])
GEOJSON = {
    "collection": {"type": "FeatureCollection", "features": [POLYGON]},
    "list": [POLYGON],
    "feature": POLYGON,
    "multi": [MULTI],
    "geometry": POLYGON["geometry"],
    "geometries": feature("X", None)
    | {"geometry": {"type": "GeometryCollection", "geometries": [POLYGON["geometry"]]}},
    "two classes": [
        feature("Polygon", [ring(SHELL)], classification={"name": "Tumor"}),
        feature("Polygon", [ring(HOLE)], classification={"name": "Ignore*"}),
    ],
    "nested": [
        feature("Polygon", [ring(SHELL)], childObjects=[feature("Polygon", [ring(HOLE)], classification="hole")]),
    ],
}


def asap(*outlines: tuple[str, str, list]) -> str:
    rows = []
    for kind, group, points in outlines:
        # Written backwards: the attribute Order counts, not the place in the file.
        corners = "".join(
            f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in reversed(list(enumerate(points)))
        )
        rows.append(
            f'<Annotation Type="{kind}" PartOfGroup="{group}"><Coordinates>{corners}</Coordinates></Annotation>'
        )
    groups = '<AnnotationGroups><Group Name="Tumor" PartOfGroup="None"/></AnnotationGroups>'
    return (
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{"".join(rows)}</Annotations>{groups}</ASAP_Annotations>'
    )


def imagescope(*layers: list[tuple[str, str, list]]) -> str:
    text = ""
    for number, regions in enumerate(layers, start=1):
        text += f'<Annotation Id="{number}" Name="layer {number}" Type="4"><Regions>'
        for kind, negative, points in regions:
            corners = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
            text += f'<Region Type="{kind}" NegativeROA="{negative}"><Vertices>{corners}</Vertices></Region>'
        text += "</Regions></Annotation>"
    return f'<Annotations MicronsPerPixel="0.25">{text}</Annotations>'


def written(folder: Path, content: object, name: str = "a.geojson") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", GEOJSON)
def test_geojson_forms_give_the_same_shares(tmp_path: Path, form: str) -> None:
    geometry = read_annotation(written(tmp_path, GEOJSON[form]))
    assert geometry.geom_type == "MultiPolygon"
    np.testing.assert_allclose(tumour_shares(geometry, BOXES), SHARES, atol=1e-9)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_xml_formats_give_the_same_shares(tmp_path: Path, encoding: str) -> None:
    texts = {
        "asap.xml": asap(("Polygon", "Tumor", SHELL), ("Spline", "Exclusion", HOLE)),
        "scope.xml": imagescope([("0", "0", [*SHELL, SHELL[0]]), ("0", "1", HOLE)]),
        "named.wrong": json.dumps(POLYGON),
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.write_bytes(text.replace('<?xml version="1.0"?>', "").encode(encoding))
        np.testing.assert_allclose(tumour_shares(read_annotation(path), BOXES), SHARES, atol=1e-9)


def test_asap_hole_groups_are_a_setting(tmp_path: Path) -> None:
    path = written(tmp_path, asap(("Polygon", "_0", SHELL), ("Polygon", "_2", HOLE)), "a.xml")
    assert read_annotation(path).area == 130_000
    assert read_annotation(path, hole_classes={"_2"}).area == 120_000
    assert load_annotation(path).classes == {"_0": 1, "_2": 1}


@dataclass(frozen=True)
class Scan:
    """A slide as far as outlines ask of one; 0.5 x 1 µm/px."""

    origin: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (1000, 800)
    mpp: tuple[float, float] = (0.5, 1.0)


CORNER = (3300, 7100)
MOVED = [(x + CORNER[0], y + CORNER[1]) for x, y in SHELL]


@pytest.mark.parametrize(
    ("name", "content", "warned"),
    [
        ("qupath.geojson", [feature("Polygon", [ring(SHELL)])], 0),
        ("scope.xml", imagescope([("0", "0", SHELL)]), 1),
        ("asap.xml", asap(("Polygon", "Tumor", MOVED)), 0),
    ],
)
def test_every_program_on_a_slide_with_bounds(tmp_path: Path, name: str, content: object, warned: int) -> None:
    """QuPath and ImageScope count from the bounds, ASAP from the file's own corner; here all count from the bounds."""
    path = written(tmp_path, content, name)
    found = slide_outlines(Scan(CORNER), path)
    assert found.geometry.equals(shapely.MultiPolygon([shapely.Polygon(SHELL)]))
    assert len(found.warnings) == warned
    assert slide_outlines(Scan(size=(9000, 9000)), path).warnings == ()
    np.testing.assert_allclose(tumour_shares(found.geometry, BOXES)[[0, 3]], [1, 0])


CLASSES = [
    feature("Polygon", [ring(SHELL), ring(HOLE)], classification={"name": "Tumor"}),
    feature("Polygon", [ring([(600, 600), (700, 600), (700, 700), (600, 700)])], classification={"name": "tumor"}),
    feature("Polygon", [ring([(0, 0), (900, 0), (900, 750), (0, 750)])], classification={"name": "Tissue"}),
    feature("Polygon", [ring([(650, 600), (700, 600), (700, 700), (650, 700)])], classification={"name": "Ignore*"}),
]


def test_only_the_named_classes_are_tumour(tmp_path: Path) -> None:
    path = written(tmp_path, CLASSES)
    every = slide_outlines(Scan(), path)
    assert every.geometry.area == 900 * 750 - 5000, "the outline of all tissue makes everything tumour"
    assert every.classes == {"Tumor": 2, "Tissue": 1}
    assert every.areas == {"Tumor": 120_000 + 5_000, "Tissue": 675_000 - 5_000}
    (note,) = every.notes((0.5, 1.0))
    assert "2 classes count as tumour: 2 Tumor (0.0625 mm²), 1 Tissue (0.335 mm²)" in note
    assert "--annotation.tumour-classes" in note
    chosen = slide_outlines(Scan(), path, AnnotationSettings(tumour_classes=("TUMOR", "melanoma")))
    assert chosen.geometry.area == 125_000 and chosen.tumour == ("Tumor",)
    assert chosen.notes((0.5, 1.0)) == []
    assert chosen.words((0.5, 1.0)) == "2 Tumor (0.0625 mm²), 1 Tissue (0.335 mm², not tumour)"
    with pytest.raises(InputError, match="no outline of the class 'nevus', only of 'Tumor', 'Tissue'") as caught:
        slide_outlines(Scan(), path, AnnotationSettings(tumour_classes=("nevus",)))
    assert "\n" not in str(caught.value)


def test_groups_layers_and_outlines_without_a_class_can_be_chosen(tmp_path: Path) -> None:
    other = [(600, 600), (700, 600), (700, 700), (600, 700)]
    groups = written(tmp_path, asap(("Polygon", "Tumor", SHELL), ("Polygon", "None", other)), "a.xml")
    assert read_annotation(groups, AnnotationSettings(("tumor",))).area == 130_000
    assert read_annotation(groups, AnnotationSettings(("",))).area == 10_000
    layers = written(tmp_path, imagescope([("0", "0", SHELL), ("0", "1", HOLE)], [("0", "0", other)]), "b.xml")
    second = load_annotation(layers, AnnotationSettings(("layer 2",)))
    assert (second.geometry.area, second.warnings) == (10_000, ())
    assert second.areas == {"layer 1": 120_000, "layer 2": 10_000}


def test_imagescope_hole_cuts_its_own_layer_only(tmp_path: Path) -> None:
    other = [(200, 200), (260, 200), (260, 260), (200, 260)]
    path = written(tmp_path, imagescope([("0", "0", SHELL), ("0", "1", HOLE)], [("0", "0", other)]), "a.xml")
    assert read_annotation(path).area == 120_000 + 3_600


def test_imagescope_rectangle_and_ellipse_by_their_corners(tmp_path: Path) -> None:
    path = written(
        tmp_path, imagescope([("1", "0", [(0, 0), (30, 20)]), ("2", "0", [(100, 100), (300, 200)])]), "a.xml"
    )
    box, ellipse = sorted(read_annotation(path).geoms, key=lambda part: part.area)
    assert box.area == 600
    assert ellipse.area == pytest.approx(np.pi * 100 * 50, rel=1e-3)
    assert ellipse.bounds == pytest.approx((100, 100, 300, 200))


def test_what_is_no_outline_is_counted(tmp_path: Path) -> None:
    content = [
        POLYGON,
        feature("Point", [1, 2]),
        feature("MultiPoint", [[1, 2]]),
        feature("LineString", [[1, 2], [3, 4]]),
        feature("Hexagon", []),
        feature("Polygon", [ring(HOLE)], objectType="tile"),
        feature("Polygon", [ring(HOLE)], objectType="detection"),
        feature("Polygon", [ring(HOLE)]) | {"id": "PathCellObject"},
        feature("Polygon", []) | {"geometry": None},
    ]
    annotation = load_annotation(written(tmp_path, content))
    assert annotation.skipped == {
        "Point": 1,
        "MultiPoint": 1,
        "LineString": 1,
        "Hexagon": 1,
        "tile": 1,
        "detection": 1,
        "PathCellObject": 1,
        "no geometry": 1,
    }
    assert (annotation.polygons, annotation.holes, annotation.classes) == (1, 0, {"Tumor": 1})
    asap_file = written(tmp_path, asap(("Polygon", "", SHELL), ("Dot", "", [(1, 1)]), ("PointSet", "", HOLE)), "a.xml")
    assert load_annotation(asap_file).skipped == {"Dot": 1, "PointSet": 1}
    scope = [("0", "0", SHELL), ("3", "0", HOLE[:2]), ("4", "0", HOLE[:2]), ("9", "0", HOLE)]
    assert load_annotation(written(tmp_path, imagescope(scope), "b.xml")).skipped == {
        "arrow": 1,
        "ruler": 1,
        "region of type 9": 1,
    }


def test_overlapping_outlines_count_once(tmp_path: Path) -> None:
    path = written(tmp_path, [feature("Polygon", [ring(HOLE)]), feature("Polygon", [ring(HOLE)])])
    assert read_annotation(path).area == 10_000


def test_self_crossing_polygon_is_named_or_mended(tmp_path: Path) -> None:
    path = written(tmp_path, [feature("Polygon", [ring(SHELL)]), feature("Polygon", [ring(BOW_TIE)])])
    with pytest.raises(
        InputError, match=r"a\.geojson: polygon 2 crosses itself near x=10\.0, y=10\.0; redraw"
    ) as caught:
        read_annotation(path)
    assert "\n" not in str(caught.value)
    annotation = load_annotation(path, MEND)
    assert annotation.geometry.is_valid
    assert annotation.geometry.area == 130_000 + 200  # both lobes, each 20 x 10 / 2
    assert annotation.warnings == ("polygon 2 crosses itself near x=10.0, y=10.0; mended",)


def test_mending_fills_what_a_line_goes_around_twice(tmp_path: Path) -> None:
    # An outline whose end runs 10 px over its start: a frame drawn with overlap, the overlap is not a hole.
    line = [(0, 0), (40, 0), (40, 40), (-10, 40), (-10, 30), (30, 30), (30, 10), (10, 10), (10, 50), (0, 50)]
    assert read_annotation(written(tmp_path, [feature("Polygon", [ring(line)])]), MEND).area == 1400


def test_a_hole_outside_of_every_outline_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, imagescope([("0", "0", SHELL), ("0", "1", [(0, 0), (9, 0), (9, 9)])]), "a.xml")
    annotation = load_annotation(path)
    assert annotation.warnings == ("1 hole(s) lie outside of every outline and cut nothing",)


BILLION_LAUGHS = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY l1 "&lol;&lol;&lol;">]>
<ASAP_Annotations>&l1;</ASAP_Annotations>"""
OUTSIDE_FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Annotations>&x;</Annotations>'
FAULTS = {
    "empty": ("", "is an empty file"),
    "blank": (" \n\n", "is an empty file"),
    "words": ("tumour: here", "neither JSON nor XML"),
    "damaged JSON": ('{"type": "FeatureCollection", "features": [', "damaged JSON"),
    "damaged XML": ("<ASAP_Annotations><Annotations>", "damaged XML"),
    "other XML": ("<svg/>", "root <svg>"),
    "laughs": (BILLION_LAUGHS, "document type"),
    "outside file": (OUTSIDE_FILE, "document type"),
    "plain document type": ("<!DOCTYPE a><Annotations/>", "document type"),
    "undeclared entity": ("<Annotations>&x;</Annotations>", "damaged XML"),
    "no type": ({"shapes": []}, "has no `type`"),
    "no list": ({"type": "FeatureCollection", "features": {}}, "`features` should be a list"),
    "no features": ({"type": "FeatureCollection", "features": []}, "holds no polygon (nothing else)"),
    "points only": ([feature("Point", [1, 2])], "holds no polygon (1 Point)"),
    "holes only": ([feature("Polygon", [ring(HOLE)], classification="Hole")], "holds no polygon"),
    "all cut": (
        [feature("Polygon", [ring(HOLE)]), feature("Polygon", [ring(SHELL)], classification="Hole")],
        "cut away",
    ),
    "two vertices": ([feature("Polygon", [[[0, 0], [1, 0], [0, 0]]])], "polygon 1 has a ring of 2 different vertices"),
    "no rings": ([feature("Polygon", [])], "polygon 1 has a ring of 0 different vertices"),
    "thin hole": ([feature("Polygon", [ring(SHELL), ring(HOLE[:2])])], "polygon 1 has a ring of 2 different vertices"),
    "one line": ([feature("Polygon", [ring([(0, 0), (1, 1), (2, 2)])])], "polygon 1 encloses no area"),
    "hole outside": (
        [feature("Polygon", [ring(HOLE), ring([(0, 0), (9, 0), (9, 9)])])],
        "a hole outside of its outline",
    ),
    "text": ([POLYGON, feature("Polygon", [[["a", 0], [1, 0], [1, 1]]])], "feature 2: coordinate 'a' is not a number"),
    "not finite": (
        '{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 0], [1, 1]]]}',
        "coordinate nan is not a number",
    ),
    "flat": ([feature("Polygon", [1, 2, 3])], "a ring should be a list, found '1'"),
    "one number": ([feature("Polygon", [[[1], [2], [3]]])], "has no x and y"),
    "ASAP comma": (asap(("Polygon", "", [("1,5", 0), (1, 0), (1, 1)])), "X = '1,5' is not a number"),
    "ASAP two": (asap(("Polygon", "", [(0, 0), (1, 0)])), "ring of 2 different vertices"),
    "scope one": (imagescope([("0", "0", [(0, 0)])]), "polygon 1 (layer 1) has a ring of 1 different vertices"),
    "scope ellipse": (imagescope([("2", "0", [(0, 0)])]), "layer 1, region 1: an ellipse needs"),
    "scope negative": (imagescope([("0", "yes", SHELL)]), 'NegativeROA="yes"'),
    "deep": ("[" * 100_000, "damaged JSON"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_bad_files_give_one_clear_line(tmp_path: Path, case: str) -> None:
    content, words = FAULTS[case]
    with pytest.raises(InputError) as caught:
        read_annotation(written(tmp_path, content))
    message = str(caught.value)
    assert words in message
    assert message.startswith(f"{tmp_path / 'a.geojson'}: ")
    assert "\n" not in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.xml: cannot be read \(No such file"):
        read_annotation(tmp_path / "none.xml")
    with pytest.raises(InputError, match="cannot be read"):
        read_annotation(tmp_path)


def test_several_bad_polygons_are_listed_together(tmp_path: Path) -> None:
    content = [feature("Polygon", [ring(BOW_TIE)]), POLYGON, feature("Polygon", [[[0, 0], [1, 1], [0, 0]]])]
    with pytest.raises(InputError) as caught:
        read_annotation(written(tmp_path, content))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "polygon 1 crosses" in lines[1]
    assert "polygon 3 has" in lines[2]


def test_xml_keeps_what_element_tree_would() -> None:
    root = parse_xml('<?xml version="1.0" encoding="iso-8859-1"?><a b="ü"><c/></a>'.encode("iso-8859-1"))
    assert (root.tag, root.attrib, [child.tag for child in root]) == ("a", {"b": "ü"}, ["c"])


def test_outlines_must_lie_on_the_slide(tmp_path: Path) -> None:
    geometry = read_annotation(written(tmp_path, GEOJSON["multi"]))
    check_annotation(geometry, (1000, 960), "a.geojson")
    check_annotation(geometry, (941, 941), "a.geojson")  # 9 px over the edge are within 1 %
    with pytest.raises(
        InputError, match=r"a\.geojson: 1 of 2 polygons lie outside of the slide of 800 x 800 px \(x 900"
    ):
        check_annotation(geometry, (800, 800), "a.geojson")
    with pytest.raises(InputError, match="2 of 2"):
        check_annotation(shapely.affinity.translate(geometry, -5000, 0), (1000, 960), "a.geojson")


@pytest.mark.parametrize("longer_side", [0, 1])
def test_an_outline_may_run_over_each_edge_by_a_share_of_the_longer_side(longer_side: int) -> None:
    size = (2000, 500) if longer_side == 0 else (500, 2000)
    over = [(-20, 0), (0, -20), (size[0] - 80, 0), (0, size[1] - 80)]  # the box is 100 px wide and high
    for (x, y), (dx, dy) in zip(over, [(-1, 0), (0, -1), (1, 0), (0, 1)], strict=True):
        check_annotation(shapely.MultiPolygon([shapely.box(x, y, x + 100, y + 100)]), size, "a.xml")
        beyond = shapely.box(x + dx, y + dy, x + dx + 100, y + dy + 100)
        with pytest.raises(InputError, match="1 of 1 polygons lie outside"):
            check_annotation(shapely.MultiPolygon([beyond]), size, "a.xml")


def test_shares_of_a_long_outline_are_those_of_single_intersections() -> None:
    angle = np.linspace(0, 2 * np.pi, 6000, endpoint=False)
    radius = 8000 + 1500 * np.sin(40 * angle)
    outline = np.stack([10000 + radius * np.cos(angle), 10000 + radius * np.sin(angle)], axis=1)
    geometry = shapely.MultiPolygon([shapely.Polygon(outline, [ring([(9000, 9000), (9500, 9000), (9500, 9800)])])])
    side = np.arange(0, 20000, 142)
    boxes = np.stack([np.tile(side, len(side)), np.repeat(side, len(side)), *np.full((2, len(side) ** 2), 284)], axis=1)
    assert len(boxes) > 19_000
    start = time.perf_counter()
    shares = tumour_shares(geometry, boxes)
    assert time.perf_counter() - start < 10
    chosen = np.random.default_rng(0).choice(len(boxes), 60, replace=False)
    for i in chosen:
        x, y, w, h = boxes[i]
        assert shares[i] == pytest.approx(
            geometry.intersection(shapely.box(x, y, x + w, y + h)).area / (w * h), abs=1e-8
        )
    assert 0.0 in shares
    assert 1.0 in shares


def test_no_boxes_and_no_outline() -> None:
    assert tumour_shares(shapely.MultiPolygon([shapely.box(0, 0, 1, 1)]), np.zeros((0, 4))).shape == (0,)
    assert tumour_shares(shapely.MultiPolygon(), BOXES).tolist() == [0.0] * len(BOXES)


def test_exactly_half_is_half() -> None:
    geometry = shapely.MultiPolygon([shapely.box(0.1, 0.1, 0.1 + 512 / 3, 0.1 + 1024 / 3)])
    assert tumour_shares(geometry, np.array([[0.1, 0.1, 1024 / 3, 1024 / 3]]))[0] == 0.5


def test_tiles_for_qupath(tmp_path: Path) -> None:
    path = tmp_path / "tiles.geojson"
    values = {
        "probability": np.array([0.25, np.nan], dtype=np.float32),
        "chosen": np.array([True, False]),
        "classification": np.array(["tumour", ""]),
        "slide": ["S1", "S1"],
    }
    write_tiles_geojson(path, np.array([[0, 0, 10, 20], [5.5, 0, 10, 20]]), values, {"tumour": (1, 2, 3)})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert first["geometry"] == {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 20], [0, 20], [0, 0]]]}
    assert first["properties"] == {
        "objectType": "tile",
        "measurements": {"probability": 0.25, "chosen": 1.0},
        "classification": {"name": "tumour", "color": [1, 2, 3]},
        "metadata": {"slide": "S1"},
    }
    assert second["properties"]["measurements"] == {"chosen": 0.0}
    assert "classification" not in second["properties"]
    with pytest.raises(InputError, match=r"holds no polygon \(2 tile\)"):
        read_annotation(path)
    with pytest.raises(ValueError, match="probability"):
        write_tiles_geojson(path, np.zeros((3, 4)), {"probability": np.zeros(2)})
    write_tiles_geojson(path, np.zeros((0, 4)), {"probability": np.zeros(0)})
    assert json.loads(path.read_text(encoding="utf-8"))["features"] == []
    assert list(tmp_path.iterdir()) == [path]
