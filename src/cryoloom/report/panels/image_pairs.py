"""Images beside the projections of the map in their poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cryoloom.particles.errors import BadInput
from cryoloom.report.figures import Picture, picture
from cryoloom.report.panel import Absent, Panel, beside, from_template
from cryoloom.report.png import window
from cryoloom.report.reprojections import Pairs, compare
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import number, plain
from cryoloom.runs import layout


@dataclass(frozen=True, slots=True)
class PairFigure:
    """An image and its reprojection with what is known of the particle."""

    image: Picture
    reprojection: Picture
    rank: str
    facts: tuple[tuple[str, str], ...]
    name: str


def html(run: ShownRun) -> Markup:
    """Six particles spread over the log-likelihood."""
    found, view, verdict = run.run.estimates, run.view(layout.MAP), run.run.verdict
    if found is None:
        raise Absent(f"{layout.PARTICLES.name} is not in the folder: nothing is known of the particles.")
    if found.particles is None:
        raise Absent(f"The images can't be opened, so none are shown. {found.why_no_images}")
    if view is None or found.rot_degrees is None or found.shift_angstrom is None:
        raise Absent(f"Without {layout.MAP.name} and poses, the images can't be compared with projections.")
    resolution = verdict.resolution_angstrom if verdict else None
    try:
        pairs = compare(found.particles, view, resolution, found.log_likelihood, found.angular_error_degrees)
    except BadInput as error:
        raise Absent(f"The images can't be read, so none are shown. {error}") from error
    if found.log_likelihood is None:
        order = "The particles are spread evenly over the file."
    else:
        order = "The particles are ordered by their log-likelihood, from poor (left) to good agreement with the map."
    return from_template(
        __file__,
        pairs=pair_figures(pairs),
        low_pass=pairs.low_pass_angstrom,
        inverted=pairs.inverted,
        order=order,
    )


def pair_figures(pairs: Pairs) -> list[PairFigure]:
    """Each picture in its own contrast: an image is noisier than its reprojection by far."""
    out = []
    for pair in pairs.pairs:
        shown = []
        for values, what in ((pair.image, "image"), (pair.reprojection, "reprojection")):
            shown.append(in_own_contrast(values, f"{what} of row {pair.row}"))
        facts = [("correlation", f"{pair.correlation:.2f}".replace("-", "\u2212"))]
        if pair.log_likelihood is not None:
            facts.append(("log-likelihood", number(pair.log_likelihood)))
        if pair.angular_error_degrees is not None:
            facts.append(("± angle", f"{pair.angular_error_degrees:.2g}°"))
        rank = f"{100 * pair.rank:.0f}\u202f%"
        out.append(PairFigure(shown[0], shown[1], rank, tuple(facts), f"row {pair.row}: {plain(pair.name)}"))
    return out


def in_own_contrast(values: np.ndarray, what: str) -> Picture:
    """An image as a picture whose greys span all but its outermost values."""
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return picture(window(values, low, high)[::-1], what)


PANEL = Panel(
    name="image-pairs",
    section="Particles",
    title="Images and reprojections",
    html=html,
    wide=True,
    css=beside(__file__, "image_pairs.css"),
)
