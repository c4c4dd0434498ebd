"""The classes of two runs on the same images, compared: what another seed finds again can be relied upon."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.particles.errors import BadInput


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """How the images of one run's classes are spread over those of another.

    Attributes:
        counts: [K + 1, L + 1] images, by the class in one run and in the other; the first row and column are those of
            no class.
        partners: for each class of the one run, the number of its partner in the other, one to one, so that most images
            are in a pair; 0 for a class without a partner.
        together: share of the images that are in a pair of partners, or in no class in both runs.
        adjusted_rand_index: 1 for the same division, about 0 for a random one; images of no class count as one.
    """

    counts: Int[np.ndarray, "K1 L1"]
    partners: tuple[int, ...]
    together: float
    adjusted_rand_index: float


def class_agreement(one: FinishedRun, other: FinishedRun) -> ClassAgreement:
    """Compare the classes of two runs on the same particles.

    Raises:
        BadInput: for a run without classes, or runs on different particles.
    """
    a, b = _classes(one), _classes(other)
    if one.record.fingerprint != other.record.fingerprint or len(a) != len(b):
        raise BadInput(
            f"{other.folder}: its particles are not those of {one.folder}\n  expected: two runs on the same particle "
            "file\n  what to do: name a run that differs in its seed or settings only"
        )
    return compared(a, b)


def compared(a: Int[np.ndarray, " N"], b: Int[np.ndarray, " N"]) -> ClassAgreement:
    """Compare two lists of class numbers of the same images, 0 for none."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score  # heavy to import

    counts = np.zeros((a.max() + 1, b.max() + 1), np.int64)
    np.add.at(counts, (a, b), 1)
    rows, columns = linear_sum_assignment(-counts[1:, 1:])
    pairs = zip((rows + 1).tolist(), (columns + 1).tolist(), strict=True)
    partner = {k: c for k, c in pairs if counts[k, c]}
    together = float(sum(counts[pair] for pair in ((0, 0), *partner.items())) / len(a))
    partners = tuple(partner.get(k, 0) for k in range(1, len(counts)))
    return ClassAgreement(counts, partners, together, float(adjusted_rand_score(a, b)))


def _classes(run: FinishedRun) -> Int[np.ndarray, " N"]:
    found = None if run.estimates is None else run.estimates.classes
    if found is None or not run.several_molecules:
        raise BadInput(
            f"{run.folder}: this run has no classes of several molecules\n"
            "  what to do: name runs of cryoloom reconstruct --classes"
        )
    return found
