"""One state machine per mode behind one seam: chunks out, samples in. Knows no model."""
