"""The files of a run folder: names, rows, ledger, manifest. The only room that reads and writes them."""
