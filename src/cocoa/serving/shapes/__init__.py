"""The shapes that clients send and expect: a file for each family of them, all of them over the same samples."""
