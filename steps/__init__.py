"""One program per stage of ``dvc.yaml``: read parameters, call the library, write outputs, track."""

import os

# Threads that wait for each other must sleep: on a busy host, spinning ones made a training step twenty times slower.
# OpenMP reads this when it is loaded, which is when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
