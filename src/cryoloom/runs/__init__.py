"""Recipes carried out step by step, with checkpoints, in a folder or in memory."""
