"""report.html: one self-contained page with tables, figures and a browser for the samples."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "MPLCONFIGDIR" not in os.environ:  # else matplotlib makes two folders in the user's home as soon as it is imported
    os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="trimode-drawing-")
    atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
