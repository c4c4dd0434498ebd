"""Contract tests of the physics room."""
