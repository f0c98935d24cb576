"""Built-in plugins; none has a privilege that a third-party wheel lacks."""
