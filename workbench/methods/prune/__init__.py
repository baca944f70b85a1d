"""Pruning: methods that remove weights. One file each."""
