"""The router: a self-hosted autoscaler endpoint that gives work to workers by their measured performance."""
