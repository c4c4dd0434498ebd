"""RELION's STAR files, version 1.x to 5."""

from cryoloom.particles.formats.format import Format
from cryoloom.particles.formats.relion.output import write
from cryoloom.particles.formats.relion.reader import read

RELION = Format("relion", "RELION STAR file, 1.x to 5", (".star",), read, write)
