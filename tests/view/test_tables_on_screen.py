"""The tables of slides and images in the browser: another model's answers stand there as soon as it is chosen, although
the rows are as many as before."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("bokeh", reason="needs Bokeh: pip install 'melano_tf[view]'")
from melano_tf.runs.predictions import predictions, write_predictions
from tests.view.browser import Browser, running
from tests.view.made_run import SETTINGS, made_images, made_run, write_run

CELLS = """
const found = [], seek = (n) => { if (n.classList && n.classList.contains('slick-cell')) found.push(n.textContent);
  for (const one of [...(n.shadowRoot ? n.shadowRoot.children : []), ...n.children]) seek(one); };
seek(document.body); return found.join('|');
"""


def test_another_models_probabilities_of_the_same_slides_are_drawn(browser: Browser, tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run")
    rows = pd.DataFrame({"case": ["S0"], "group": "P0", "part": "test", "target": 0})
    for name, said in (("first", 0.031), ("other", 0.964)):
        write_predictions(folder / "predictions" / f"{name}.csv", predictions(rows, np.array([said])))
    write_run(folder, "spitzoid", SETTINGS, {name: {"classes": ("no", "yes")} for name in ("first", "other")})
    with running([folder]) as server:
        browser.open(f"{server.prefix}cases?run=0&model=first")
        browser.until(lambda: "0.031" in browser.run(CELLS))
        browser.choose("model", "other")
        browser.until(lambda: browser.table("p") == [0.964])
        browser.until(lambda: "0.964" in browser.run(CELLS) and "0.031" not in browser.run(CELLS), seconds=5)


def test_pictures_in_another_order_are_drawn(browser: Browser, tmp_path: Path) -> None:
    cards = {name: {"classes": ("NV", "MEL"), "threshold": 0.5} for name in ("first", "other")}
    folder = made_images(tmp_path / "run", cards, {"first": [0.9, 0.2], "other": [0.3, 0.6]})
    with running([folder]) as server:
        browser.open(f"{server.prefix}cases?run=0&model=first")
        before = browser.until(lambda: browser.run(CELLS))
        browser.choose("model", "other")
        browser.until(lambda: browser.run(CELLS) != before, seconds=5)
