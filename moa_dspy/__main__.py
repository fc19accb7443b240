"""`python -m moa_dspy`: the command line."""

from moa_dspy.cli import main

if __name__ == "__main__":
    main()
