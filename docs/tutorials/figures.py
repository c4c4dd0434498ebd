"""Figures of the tutorials: drawn with matplotlib, shown in the page as SVG."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from cryoloom import DensityMap

mpl.use("svg")
plt.rcParams.update({"svg.hashsalt": "cryoloom", "svg.fonttype": "none", "font.family": "sans-serif"})
_HOME = Path.cwd()


def enter_empty_folder() -> None:
    """Work in a new folder, as the reader does."""
    os.chdir(tempfile.mkdtemp(prefix="cryoloom-tutorial-"))


def leave() -> None:
    """Go back to where the site is built."""
    os.chdir(_HOME)


def svg(figure: Figure) -> str:
    """The figure as a page shows it."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", transparent=False, metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return f'<div class="figure">{text[text.index("<svg") :]}</div>'


def projections(maps: Mapping[str, DensityMap]) -> Figure:
    """Maps side by side, summed along z."""
    figure, axes = plt.subplots(1, len(maps), figsize=(2.6 * len(maps), 2.8), squeeze=False)
    for ax, (name, density) in zip(axes[0], maps.items(), strict=True):
        ax.imshow(density.data.sum(0).numpy(), cmap="gray", origin="lower")
        ax.set_title(name, fontsize=9)
        ax.set_axis_off()
    return figure
