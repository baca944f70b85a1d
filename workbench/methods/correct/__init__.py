"""Corrections: methods that mend what is left over after all others. One file each."""
