"""From the command line and YAML to the validated settings of a run."""
