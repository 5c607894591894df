"""What is done with planned jobs: dry run, checks before the start, local run, submission, ownership of run folders."""
