"""`python -m jaxreg` is the `jaxreg` command."""

from jaxreg.cli.app import main

if __name__ == "__main__":
    main()
