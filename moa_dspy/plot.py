"""Quality against cost, as a picture or as a web page."""

from __future__ import annotations

from pathlib import Path

from moa_dspy.comparison import Comparison
from moa_dspy.plot_chart import chart
from moa_dspy.plot_html import page

__all__ = ["save_plot"]


def save_plot(comparison: Comparison, path: str | Path) -> Path:
    """Plot every system's score against what it takes per question, with 95% intervals.

    Args:
        comparison: What to plot. The x axis is USD if all prices are known, else tokens.
        path: Ends in `.html` for a self-contained page, which needs nothing; else in what matplotlib
            writes: `.png`, `.svg`, `.pdf`.

    Returns:
        The path.

    Raises:
        ImportError: If matplotlib is needed and not installed.
        ValueError: If there is nothing to plot, or matplotlib does not know the ending.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    drawing = chart(comparison)
    if path.suffix.lower() in (".html", ".htm"):
        path.write_text(page(drawing), encoding="utf-8")
        return path
    try:
        from moa_dspy.plot_image import save_image
    except ImportError as error:
        raise ImportError(
            f'Plotting to {path.name} needs matplotlib: pip install "moa-dspy[plot]". A path that ends in .html '
            "needs nothing."
        ) from error
    save_image(drawing, path)
    return path
