"""`python -m beatline.cli`."""

from beatline.cli import main

main()
