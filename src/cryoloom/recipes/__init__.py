"""Methods as sequences of steps, each with its settings."""
