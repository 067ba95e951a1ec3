"""Where tasks come from: one module per source of data, each reading the files that its publisher ships."""
