"""``python -m policypress`` is the command line."""

from policypress.cli import main

if __name__ == "__main__":
    main()
