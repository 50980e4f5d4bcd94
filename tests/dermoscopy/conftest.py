"""One tiny phantom data set a layout, drawn once for the tests of this folder."""

from pathlib import Path

import pytest

from melano_tf.phantoms.skin.isic_data_sets import PhantomDermoscopy, PhantomDermoscopySettings, draw_dermoscopy


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PhantomDermoscopy]:
    folder: Path = tmp_path_factory.mktemp("phantoms")
    settings = {
        layout: PhantomDermoscopySettings(layout, patients=30, height_px=96, duplicate_share=0.06, missing_share=0.1)
        for layout in ("isic2018", "isic2019", "isic2020")
    }
    return {layout: draw_dermoscopy(folder / layout, chosen, seed=1) for layout, chosen in settings.items()}
