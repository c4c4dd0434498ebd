"""metrics.jsonl as TensorBoard events, for those who watch training there."""

from __future__ import annotations

from pathlib import Path

from cryoloom.runs import layout
from cryoloom.runs.metrics_log import read_metrics


def write_events(run: Path, folder: Path) -> int:
    """Write every metric of a run as STAGE/METRIC against the stage's steps; the number of values written.

    Raises:
        ValueError: where the extra is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "--tensorboard needs the package tensorboard\n  what to do: pip install 'cryoloom[tensorboard]'"
        ) from error
    count = 0
    with SummaryWriter(str(folder)) as writer:
        for line in read_metrics(layout.STEPS.path(run)):
            values = dict(line.info.metrics)
            if line.info.resolution_angstrom is not None:
                values["resolution_angstrom"] = line.info.resolution_angstrom
            for name, value in values.items():
                writer.add_scalar(f"{line.info.stage}/{name}", value, line.info.step)
                count += 1
    return count
