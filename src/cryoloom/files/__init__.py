"""Files that survive a kill, a crash, a full disk; imports nothing of ours."""
