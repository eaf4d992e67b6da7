"""`python -m jaxgen` is the command line."""

from jaxgen.cli import main

main()
