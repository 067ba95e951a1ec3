"""Models and target spaces as a service over HTTP, with a page to look at."""
