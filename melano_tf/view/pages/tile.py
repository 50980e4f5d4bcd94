"""A clicked tile: its picture and numbers."""

from typing import Any

from melano_tf.view.look import text


def tile_panel(slide: Any, number: int) -> None:
    """Show a tile of the slide's page in its panel."""
    row = slide.pane.shown.iloc[number]
    box = [int(row[name]) for name in ("x", "y", "w0", "h0")]
    picture = slide.page.site.cutout(slide.run.number, slide.place, box)
    value = f"<br>{text(slide.overlay.value)}: {row['raw']:.4f}" if "raw" in row else ""
    name = f"tile {row['tile']} {text(row['magnification'])}"
    slide.tile.text = (
        f'<h3>{name}</h3><img src="{picture}" alt="{name}" width="192">'
        f"<p>{value} tissue {row['tissue']:.0%}, x {box[0]:,}, y {box[1]:,}</p>"
    )
