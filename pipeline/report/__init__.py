"""The report command: tables and the page report.html."""
