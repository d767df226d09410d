"""What an embedding job reads: jsonl, Parquet, tars and folders of pictures, one file a kind."""
