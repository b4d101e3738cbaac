"""``python -m flexgym.rm`` is the command ``flexgym.rm``."""

from flexgym.rm.command import main

main()
