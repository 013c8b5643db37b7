"""The `jaxreg` command."""

from jaxreg.cli.app import main as main
