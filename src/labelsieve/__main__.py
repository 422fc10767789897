"""The command ``labelsieve``, and ``python -m labelsieve``."""

from __future__ import annotations

import sys

from labelsieve.cli.app import leave_at_once, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code.

    Parameters
    ----------
    args : sequence of str, optional
        Arguments; those of the process by default.
    """
    args = sys.argv[1:] if args is None else list(args)
    leave_at_once(args)  # before the slow imports

    sys.exit(run(args))


if __name__ == "__main__":
    main()
