"""From documents to answers: what is embedded, the folder of embeddings, exact search."""
