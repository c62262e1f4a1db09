"""`python -m quantkit`: the command line, for where the script of that name is not on the path."""

import sys

from quantkit.cli import main

sys.exit(main())
