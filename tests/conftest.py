"""Settings of every test: threads that sleep instead of spinning, so that tests are as quick beside other work."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "2000")
