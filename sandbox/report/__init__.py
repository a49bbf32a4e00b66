"""The report of one dump: crash's output as values, the signature, and the page."""
