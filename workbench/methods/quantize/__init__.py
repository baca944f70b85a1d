"""Quantization: methods that move weights onto a number grid. One file each."""
