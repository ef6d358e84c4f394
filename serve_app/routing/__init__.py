"""Which model answers a request: default, aliases, experiments; knows neither Ray nor a model."""
