"""The commands of `hbode`, one a file: each adds its parser and runs on what it parsed."""
