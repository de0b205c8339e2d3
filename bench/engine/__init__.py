"""The engine beside raw FAISS on a large set, in process and over REST: `make bench-engine`."""
