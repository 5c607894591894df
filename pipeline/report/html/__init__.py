"""report.html: one self-contained page with tables, figures and a browser for the samples."""
