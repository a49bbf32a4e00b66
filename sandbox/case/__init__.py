"""Cases: a dump opened in a disposable container, with its image and its debuginfo."""
