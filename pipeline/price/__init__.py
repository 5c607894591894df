"""What a sweep costs before it is submitted: hours from measured rates, and how exact its accuracies will be."""
