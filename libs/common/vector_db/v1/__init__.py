"""Generated from `proto/vector_db/v1/vector_db.proto` by `make proto`; never edited by hand."""
