"""What the verbs of the shell share; the verbs themselves are `workbench.cli`."""
