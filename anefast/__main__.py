"""`python -m anefast`: the same as `anefast`."""

from anefast.commands import main

if __name__ == "__main__":
    main()
