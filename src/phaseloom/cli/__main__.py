"""``python -m phaseloom.cli``."""

from phaseloom.cli import main

if __name__ == "__main__":
    main()
