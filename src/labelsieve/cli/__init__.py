"""The command line.

JSON, progress, logs, exit codes and environment variables are documented in `docs/command_line.md`.
"""

__all__: list[str] = []
