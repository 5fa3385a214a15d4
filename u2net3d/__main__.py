"""`python -m u2net3d` is the command line."""

from u2net3d.cli import main

main()
