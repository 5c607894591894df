"""The Ray side of the balancer: the head node, its private folder, the worker actors."""
