"""``python -m labelsieve``."""

from labelsieve.cli import main

if __name__ == "__main__":
    main()
