"""The report of one dump: answers of crash as values, their signature, the page."""
