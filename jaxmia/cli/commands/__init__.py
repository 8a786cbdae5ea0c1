"""Commands of the command line: each is a dataclass of its options and is called to run it."""
