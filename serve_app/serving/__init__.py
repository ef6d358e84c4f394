"""The Ray Serve shims around the engine: ingress, replicas, and the wiring between them."""
