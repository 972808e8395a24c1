"""``python -m phaseloom``."""

from phaseloom.cli import main

if __name__ == "__main__":
    main()
