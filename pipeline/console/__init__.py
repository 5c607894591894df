"""What a person sees and how they interrupt: log, progress bars, signals."""
