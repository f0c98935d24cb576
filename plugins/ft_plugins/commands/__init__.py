"""Commands of ``ft`` that are plugins."""
