"""The commands of vmbox, a module each. The command line (`cli`) parses and calls."""
