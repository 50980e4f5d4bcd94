"""A user's script without `if __name__ == "__main__"` is run once, whatever processes our work begins."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).parents[2]
BEGINNINGS = {
    "a slide read apart": """
from melano_tf.pipelines.slide_apart import SlideApart
with SlideApart(SLIDE) as slide:
    print(slide.size)
""",
    "slides worked through": """
from melano_tf.pipelines.processes import spread
print(sorted(spread(abs, [-1, -2, -3], 2)))
""",
    "one worker that dies": """
from melano_tf.pipelines.processes import spread
import os
print([type(found).__name__ for _, found in spread(os._exit, [3], 1)])
""",
    "slides drawn": """
from melano_tf.phantoms.slides.slide_drawing import PhantomSettings, draw_cohort
from pathlib import Path
Path(OUT).mkdir()
print(draw_cohort(Path(OUT), PhantomSettings(2, 0.5, 0.0, (800, 810), (600, 610)), 1, workers=2).name)
""",
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_script_without_a_guard_runs_once(name: str, tmp_path: Path) -> None:
    slide = tmp_path / "slide.tiff"
    tifffile.imwrite(slide, np.full((300, 500, 3), 200, np.uint8), tile=(64, 64), resolution=(20000, 20000))
    script = tmp_path / "mine.py"
    head = f"SLIDE, OUT = {str(slide)!r}, {str(tmp_path / 'out')!r}\nprint('begun', flush=True)\n"
    script.write_text(head + BEGINNINGS[name])
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("begun") == 1 and len(done.stdout.splitlines()) == 2, done.stdout
