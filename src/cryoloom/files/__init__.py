"""Files that survive a kill, a crash or a full disk; imports no other part of the package."""
