"""Transforms: methods that rescale channels and leave the float function as it is. One file each."""
