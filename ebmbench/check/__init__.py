"""The contract of components: what each kind must keep to. `python -m ebmbench check FILE` tries a plug-in."""
