"""Reports of many dumps, and the table of them."""
