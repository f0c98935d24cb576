"""Quantizers: weights in fewer bits, under an adapter that trains."""
