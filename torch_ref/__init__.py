"""The notebook in PyTorch: the reference that jaxreg's numbers are tested against."""
