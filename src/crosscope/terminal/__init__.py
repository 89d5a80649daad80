"""The command line."""

from crosscope.terminal.commands import main as main
