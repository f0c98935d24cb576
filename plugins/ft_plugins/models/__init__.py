"""Where models come from: a source a file."""
