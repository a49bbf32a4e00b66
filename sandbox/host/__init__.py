"""Facts about this host: settings, places, locks, mirrors, temporary directories, free disk space."""
