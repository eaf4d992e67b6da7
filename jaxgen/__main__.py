"""`jaxgen` and `python -m jaxgen`, the command line: signals are taken care of before anything slow is imported."""

import os
import sys
from collections.abc import Sequence

from jaxgen import signals


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of a process; `jaxgen.cli.main` is the same as a function.

    A command that failed ends at once: threads of a save that failed, or a partner that has gone, are not waited for.
    """
    signals.install()
    from jaxgen import cli

    try:
        cli.main(argv)
    except SystemExit as error:
        if not error.code:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error.code, int) else 1)


if __name__ == "__main__":
    main()
