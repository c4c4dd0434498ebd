"""The image model of single-particle cryo-EM in plain torch: the reference that every fast path is tested against."""
