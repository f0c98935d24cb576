"""Where rows come from, and what shapes of them mean: a source or a format a file."""
