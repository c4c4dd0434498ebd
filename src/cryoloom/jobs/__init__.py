"""What a user asks for: whole runs from particles to a filled folder."""
