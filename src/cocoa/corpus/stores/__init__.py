"""Where an index keeps its rows: in memory, in a LanceDB folder, in a Milvus server; one protocol for all."""
