"""Golden tests: the package against exact formulas in plain NumPy and against files and numbers of other programs."""
