"""Plugins that make the optimizer; `optim` judges the names that transformers has of its own."""
