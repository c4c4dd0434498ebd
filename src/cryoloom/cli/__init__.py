"""The command line: one command a file. The only place that parses arguments, picks devices and prints."""
