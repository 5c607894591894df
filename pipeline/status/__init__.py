"""Shows how the jobs of a sweep stand, follows their logs, and cancels them."""
