"""Where tasks come from: one module a source of data, each from the files that its users can get."""
