"""The gRPC edge: protobuf in and out, the same core and the same errors as REST."""
