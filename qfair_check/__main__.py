"""``python -m qfair_check`` is the command ``qfair``."""

import sys

from qfair_check.cli import main

sys.exit(main())
