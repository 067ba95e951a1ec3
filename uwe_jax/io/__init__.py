"""Files and tables: whole-file writes, checksums, readers that name the row."""
