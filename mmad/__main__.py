"""Entry point of the `mmad` command and of `python -m mmad`."""

import sys


def main() -> None:
    """Run the command. Ctrl-C exits with status 130, also during the imports."""
    try:
        from mmad.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
