"""`python -m jaxreg` is the `jaxreg` command."""

from jaxreg.cli import main

main()
