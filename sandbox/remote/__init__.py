"""Dumps on servers: by HTTP, S3 and SFTP, read in pages that are kept."""
