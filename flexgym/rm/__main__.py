"""Run the command ``flexgym.rm`` as ``python -m flexgym.rm``."""

from flexgym.rm.command import main

main()
