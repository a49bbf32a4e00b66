"""What each command of vmbox does. The command line (`cli`) parses and calls."""
