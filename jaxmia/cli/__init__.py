"""The command line: options, output and the commands."""
