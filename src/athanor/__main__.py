"""``python -m athanor``: the command line, where its script is not on the path."""

from athanor.cli.main import main

if __name__ == "__main__":
    main()
