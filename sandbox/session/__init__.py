"""Sessions: the warm crash of a case, asked over FIFOs."""
