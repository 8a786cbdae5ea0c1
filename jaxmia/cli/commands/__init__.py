"""The commands of the command line: each a dataclass of its options that runs when it is called."""
