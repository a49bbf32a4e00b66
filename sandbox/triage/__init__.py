"""From an open case to a report, and from a heap of dumps to a table of reports."""
