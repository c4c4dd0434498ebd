"""classes.csv comes back as it was written, and nothing else is taken for it."""

from pathlib import Path

import pytest

from cryoloom.jobs.class_table import ClassRow, read_class_table, write_class_table


def test_a_table_comes_back(tmp_path: Path) -> None:
    rows = (ClassRow("class 1", 600, 0.6, 6.25), ClassRow('odd, "name"\nof two lines', 400, 0.4, None))
    write_class_table(tmp_path / "classes.csv", rows)
    assert read_class_table(tmp_path / "classes.csv") == rows
    assert read_class_table(tmp_path / "absent.csv") == ()


@pytest.mark.parametrize(
    "text",
    [
        "name,particles\na,1\n",
        "name,particles,share,resolution_angstrom\na,1,1.5,\n",
        "name,particles,share,resolution_angstrom\na,x,0.5,\n",
        "name,particles,share,resolution_angstrom\na,1,0.5,-3\n",
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(ValueError, match="not a table of classes"):
        read_class_table(tmp_path / "classes.csv")
