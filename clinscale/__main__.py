"""`python -m clinscale` is the `clinscale` command."""

from clinscale.cli import main

if __name__ == "__main__":
    main()
