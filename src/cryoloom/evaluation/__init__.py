"""Comparison of poses, maps and conformations with the truth. No room that infers may import this one."""
