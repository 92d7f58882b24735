"""Class sets, prompts, ontologies and class embeddings."""
