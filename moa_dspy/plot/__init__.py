"""Quality against cost, as a picture or as a web page."""

from moa_dspy.plot.drawn import check_plot, save_plot

__all__ = ["check_plot", "save_plot"]
