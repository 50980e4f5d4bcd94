"""Which tiles make a bag."""

import pandas as pd

from melano_tf.pipelines.tumour_tile_selection import select_tumour_tiles


def predictions(**slides: list[float]) -> pd.DataFrame:
    rows = [(name, tile, value) for name, values in slides.items() for tile, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["slide_id", "tile", "probability"])


def test_tiles_from_the_threshold_on_are_selected_slide_by_slide():
    selected = select_tumour_tiles(predictions(B=[0.2, 0.5, 0.9], A=[0.7, 0.1]), threshold=0.5, fallback=1)
    assert list(zip(selected["slide_id"], selected["tile"], strict=True)) == [("B", 1), ("B", 2), ("A", 0)]
    assert not selected["fallback"].any()


def test_a_slide_without_any_brings_its_most_probable_in_the_order_of_the_table():
    selected = select_tumour_tiles(predictions(A=[0.1, 0.4, 0.2, 0.4, 0.05]), threshold=0.5, fallback=3)
    assert list(selected["tile"]) == [1, 2, 3]
    assert selected["fallback"].all()


def test_fewer_tiles_than_the_fallback_are_all_taken():
    assert list(select_tumour_tiles(predictions(A=[0.1, 0.2]), 0.5, 16)["tile"]) == [0, 1]


def test_no_tiles_at_all_flow_through():
    selected = select_tumour_tiles(predictions(), 0.5, 16)
    assert len(selected) == 0
    assert "fallback" in selected


def test_a_networks_probability_just_below_the_threshold_is_below_it():
    """In float32 0.7 is 0.69999999: neither the run's own table nor the served graph calls it."""
    table = predictions(A=[0.7, 0.71, 0.2]).astype({"probability": "float32"})
    assert list(select_tumour_tiles(table, 0.7, 1)["tile"]) == [1]
