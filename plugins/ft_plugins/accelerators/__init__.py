"""Plugins that make the same mathematics faster or smaller, one file each."""
