"""Plain values of the database: ids, rows, collections, filters, errors, limits. No I/O."""
