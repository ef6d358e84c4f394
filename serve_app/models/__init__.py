"""The interface of models, the factory and registry, and the backends."""
