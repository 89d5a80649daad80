"""`python -m crosscope` is the command line."""

from crosscope.terminal import main

main()
