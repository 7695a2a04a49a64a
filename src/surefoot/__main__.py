import sys

from surefoot.cli.main import main

sys.exit(main())
