"""What a Python program calls: whole jobs and single steps. `import cryoloom as cl` gives these names lazily."""
