"""The REST edge: HTTP in, plain requests of `core/requests.py` out, and their answers back."""
