"""`python -m mmad` is `mmad`."""

from mmad.cli import main

main()
