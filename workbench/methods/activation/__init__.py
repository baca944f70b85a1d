"""Activations: methods that quantize what enters a layer. One file each."""
