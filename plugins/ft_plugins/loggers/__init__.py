"""Where metrics go: a logger a file."""
