"""``python -m gatecore.tasks.cli``: the command line."""

from gatecore.tasks.cli.commands import main

main()
