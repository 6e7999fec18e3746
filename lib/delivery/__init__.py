"""Getting a job's outputs to its caller: where they go is planned from the request, then uploaded or inlined; webhooks
tell that it is over. ``outputs.OutputDelivery`` is what the core calls."""
