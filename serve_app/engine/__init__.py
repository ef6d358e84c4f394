"""Everything between a request and a model, free of Ray and HTTP: pool, batches, pipeline."""
