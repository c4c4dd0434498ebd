"""Jobs: whole runs from particles to a filled run folder."""
