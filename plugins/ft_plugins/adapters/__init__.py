"""What trains of a model: an adapter a file."""
