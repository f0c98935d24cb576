"""Layers of quantizers that torch must be imported for."""
