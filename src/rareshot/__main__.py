"""`python -m rareshot` is `rareshot`."""

import sys

from rareshot.cli import main

sys.exit(main())
