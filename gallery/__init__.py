"""Long reproductions whose results are pages of the documentation: `make gallery`."""
