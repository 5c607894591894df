"""report.html: one self-contained page with the table, the figures and a browser for the samples.

Knows no jobs and no models; it draws what `results` and `summary` have read.
"""
