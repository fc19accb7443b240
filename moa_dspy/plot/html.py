"""A drawing as a web page that loads nothing from anywhere."""

from __future__ import annotations

from html import escape

from moa_dspy.plot.drawing import Dot, Drawing, Label, Line

__all__ = ["page"]


def page(drawing: Drawing) -> str:
    """The drawing as one HTML file with an SVG in it."""
    parts = "\n".join(_svg(part) for part in drawing.parts)
    title = escape(drawing.title)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ margin: 1rem; background: white; }} svg {{ max-width: 100%; height: auto; }}</style>
<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width}" height="{drawing.height}" \
viewBox="0 0 {drawing.width} {drawing.height}" role="img" aria-label="{title}" \
font-family="DejaVu Sans, Verdana, sans-serif">
{parts}
</svg>
</html>
"""


def _svg(part: Line | Dot | Label) -> str:
    if isinstance(part, Line):
        dashes = ' stroke-dasharray="4 3"' if part.dashed else ""
        return (
            f'<line x1="{part.x1:.1f}" y1="{part.y1:.1f}" x2="{part.x2:.1f}" y2="{part.y2:.1f}" '
            f'stroke="{part.color}" stroke-width="{part.width:g}"{dashes}/>'
        )
    if isinstance(part, Dot):
        hint = f"<title>{escape(part.hint)}</title>" if part.hint else ""
        place = f'cx="{part.x:.1f}" cy="{part.y:.1f}" r="{part.radius:g}"'
        return f'<circle {place} fill="{part.color}" stroke="white">{hint}</circle>'
    turned = f' transform="rotate(-90 {part.x:.1f} {part.y:.1f})"' if part.upright else ""
    weight = ' font-weight="bold"' if part.bold else ""
    return (
        f'<text x="{part.x:.1f}" y="{part.y:.1f}" fill="{part.color}" font-size="{part.size:g}" '
        f'text-anchor="{part.anchor}" dominant-baseline="central"{weight}{turned}>{escape(part.text)}</text>'
    )
