"""Quality against cost, as a picture or as a web page."""

from __future__ import annotations

from pathlib import Path

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.plot.chart import chart
from moa_dspy.plot.html import page

__all__ = ["check_plot", "save_plot"]


def save_plot(comparison: Comparison, path: str | Path) -> Path:
    """Plot every system's score against what it takes per question, with 95% intervals.

    Args:
        comparison: What to plot. The x axis is USD if all prices are known, else tokens, and calls where
            DSPy's cache left nothing to measure.
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
    check_plot(path)
    drawing = chart(comparison)
    if _is_page(path):
        path.write_text(page(drawing), encoding="utf-8")
    else:
        from moa_dspy.plot.image import save_image

        save_image(drawing, path)
    return path


def check_plot(path: str | Path) -> None:
    """Find out before an evaluation whether its plot can be written.

    Raises:
        ImportError: If matplotlib is needed and not installed.
        ValueError: If matplotlib does not know the ending.
        FileNotFoundError: If there is no such folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist, so the plot could not be written.")
    if _is_page(path):
        return
    try:
        from moa_dspy.plot.image import ENDINGS
    except ImportError as error:
        raise ImportError(
            f'A plot in {path.name} needs matplotlib: pip install "moa-dspy[plot]". In a file that ends in .html it '
            "needs nothing."
        ) from error
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path.name}: a plot ends in .html, {', '.join(ENDINGS)}.")


def _is_page(path: Path) -> bool:
    return path.suffix.lower() in (".html", ".htm")
