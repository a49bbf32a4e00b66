"""Programs that maintainers run now and then; none is needed to use vmbox."""
