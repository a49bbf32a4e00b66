"""An excerpt of a dump: a small dump of the pages that a report and some commands read, to send where it cannot go."""
